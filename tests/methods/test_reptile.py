"""Reptile is the start of the inner run minus its end."""

from __future__ import annotations

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, objective, relative_error
from small_problems import LearnedStart, LearnedStartOfBody, LearningRates, OuterPenalty, Tanh

from metabench.autodiff.gradients import inner_gradient
from metabench.core import MetaRole, Tree, Unsupported, tree


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("steps", [1, 5])
def test_it_is_the_learned_start_minus_the_end_of_the_run(steps: int, optimiser: str) -> None:
    problem = LearnedStart(optimiser, inner_steps=steps)
    state, meta, window = checkpoint(problem)
    found = call("reptile", problem, state, meta, window)
    assert all(torch.equal(leaf, meta[name] - found.state.params[name]) for name, leaf in found.meta.items())
    assert found.outer_loss == pytest.approx(objective(problem, state, window)(meta), rel=1e-14)


def test_a_meta_step_of_rate_one_lands_on_the_end_of_the_run() -> None:
    problem = LearnedStart("adam", inner_steps=6)
    state, meta, window = checkpoint(problem)
    found = call("reptile", problem, state, meta, window)
    assert relative_error(tree.subtract(meta, found.meta), found.state.params) <= 1e-15


def test_with_sgd_it_is_the_learning_rate_times_the_sum_of_the_inner_gradients() -> None:
    problem = LearnedStart("sgd", inner_steps=2)
    state, meta, window = checkpoint(problem)
    first = inner_gradient(problem, meta, meta, window.inner[0])
    second = inner_gradient(problem, tree.add_scaled(meta, -0.1, first), meta, window.inner[1])
    found = call("reptile", problem, state, meta, window).meta
    assert relative_error(found, tree.scale(0.1, tree.add(first, second))) <= 1e-13


def test_only_the_part_of_the_start_that_is_learned_is_moved() -> None:
    problem = LearnedStartOfBody("momentum", inner_steps=3)
    state, meta, window = checkpoint(problem)
    found = call("reptile", problem, state, meta, window)
    assert list(found.meta) == list(meta) == ["in", "shift"]
    assert all(torch.equal(leaf, meta[name] - found.state.params[name]) for name, leaf in found.meta.items())


class ScaledStart(LearnedStart):
    """The start is a tenth of the meta-parameters."""

    def start(self, params: Tree, meta: Tree) -> Tree:
        return tree.scale(0.1, meta)


def test_a_start_that_is_a_function_of_the_meta_parameters_pulls_the_way_back_through_it() -> None:
    problem = ScaledStart(inner_steps=3)
    state, meta, window = checkpoint(problem)
    found = call("reptile", problem, state, meta, window)
    way = tree.subtract(tree.scale(0.1, meta), found.state.params)
    assert relative_error(found.meta, tree.scale(0.1, way)) <= 1e-13


class StartAndPenalty(LearnedStart):
    """A penalty is learned beside the start."""

    roles = frozenset({MetaRole.START, MetaRole.INNER_LOSS})

    def initial_meta(self, params: Tree) -> Tree:
        return {**super().initial_meta(params), "penalty": torch.tensor(0.1, dtype=torch.float64)}

    def start(self, params: Tree, meta: Tree) -> Tree:
        return {name: meta[name] for name in params}


@pytest.mark.parametrize("kind", [Tanh, LearningRates, OuterPenalty])
def test_without_a_learned_start_it_refuses(kind: type[Tanh]) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match="meta-parameters are not the initial parameters"):
        call("reptile", problem, *checkpoint(problem))


def test_a_meta_parameter_that_the_start_does_not_read_is_named() -> None:
    problem = StartAndPenalty()
    with pytest.raises(Unsupported, match=r"meta-parameters \['penalty'\] are not initial parameters"):
        call("reptile", problem, *checkpoint(problem))
