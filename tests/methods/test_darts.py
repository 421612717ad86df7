"""DARTS is the one-step hypergradient with its mixed product by central differences, whose error is of second order in their width."""

from __future__ import annotations

import math

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, make_problem, relative_error
from small_problems import Counting, LearnedStart, LearningRates, OuterOnly, OuterPenalty, Ridge, Tanh, WeightedExamples

from metabench.core import Curvature, Problem, Unsupported, Window, tree
from metabench.methods import method


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", [Tanh, OuterPenalty, WeightedExamples, LearningRates, OuterOnly])
def test_at_its_declared_limit_it_is_the_one_step_hypergradient(kind: type[Tanh], optimiser: str) -> None:
    problem = kind(optimiser, inner_steps=3)
    at = checkpoint(problem)
    limit = method("darts").limit
    assert limit is not None
    (options,) = limit.option_sets(Curvature(21, 0.1, 1.0))
    assert (
        relative_error(call("darts", problem, *at, **options).meta, call("t1t2", problem, *at).meta) <= limit.tolerance
    )


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_its_error_is_of_second_order_in_epsilon(optimiser: str) -> None:
    problem = WeightedExamples(optimiser, inner_steps=3)
    at = checkpoint(problem)
    exact = call("t1t2", problem, *at).meta
    widths = (0.1, 0.03, 0.01, 0.003)
    errors = [relative_error(call("darts", problem, *at, epsilon=width).meta, exact) for width in widths]
    for wide, narrow, ratio in zip(errors[:-1], errors[1:], (10 / 3, 3, 10 / 3), strict=True):
        assert math.log(wide / narrow) / math.log(ratio) == pytest.approx(2, abs=0.05)


def test_where_the_inner_loss_is_quadratic_in_the_parameters_any_width_is_exact() -> None:
    problem = Ridge(inner_steps=2)
    at = checkpoint(problem)
    exact = call("t1t2", problem, *at).meta
    for width in (10.0, 1.0, 0.01):
        assert relative_error(call("darts", problem, *at, epsilon=width).meta, exact) <= 1e-11


@pytest.mark.parametrize("rate", [0.1, 0.02])
def test_for_sgd_it_is_the_papers_formula(rate: float) -> None:
    problem = make_problem("regularisation", inner_steps=1, learning_rate=rate, start=-2.0)
    state, meta, window = checkpoint(problem, windows_before=2)
    found = call("darts", problem, state, meta, window)
    outer = window.outer[-1]
    assert outer is not None
    slope = torch.func.grad(lambda params: problem.outer_loss(params, meta, outer))(found.state.params)
    eps = 0.01 / tree.norm(slope)

    def mixed(sign: float) -> dict[str, torch.Tensor]:
        moved = tree.add_scaled(state.params, sign * eps, slope)
        return torch.func.grad(lambda values: problem.inner_loss(moved, values, window.inner[0]))(meta)

    expected = tree.scale(-rate / (2 * eps), tree.subtract(mixed(1), mixed(-1)))
    assert relative_error(found.meta, expected) <= 1e-9


@pytest.mark.parametrize("steps", [1, 4])
def test_it_takes_two_gradients_beyond_the_run(steps: int) -> None:
    problem = Counting(WeightedExamples("adam", inner_steps=steps))
    call("darts", problem, *checkpoint(WeightedExamples("adam", inner_steps=steps)))  # type: ignore[arg-type]
    assert problem.inner_losses == steps + 2
    problem = Counting(LearningRates("adam", inner_steps=steps))
    call("darts", problem, *checkpoint(LearningRates("adam", inner_steps=steps)))  # type: ignore[arg-type]
    assert problem.inner_losses == steps


def test_for_learned_learning_rates_there_is_no_difference_to_take() -> None:
    problem = LearningRates("adam", inner_steps=3)
    at = checkpoint(problem)
    assert relative_error(call("darts", problem, *at).meta, call("t1t2", problem, *at).meta) <= 1e-14


class Flat(OuterPenalty):
    """An outer loss that does not depend on the parameters."""

    def outer_loss(self, params, meta, batch):  # type: ignore[no-untyped-def]
        return torch.stack([leaf.exp() for leaf in meta.values()]).sum()


def test_an_outer_gradient_of_zero_leaves_the_direct_term_and_no_division_by_it() -> None:
    problem = Flat()
    state, meta, window = checkpoint(problem)
    for name in ("darts", "sama"):
        assert relative_error(call(name, problem, state, meta, window).meta, tree.tree_map(torch.exp, meta)) <= 1e-15


def test_what_one_step_does_not_reach_is_refused() -> None:
    start: Problem = LearnedStart()
    with pytest.raises(Unsupported, match="initial parameters"):
        call("darts", start, *checkpoint(start))
    problem = Tanh(inner_steps=2)
    state, meta, window = checkpoint(problem)
    with pytest.raises(Unsupported, match="outer losses are due before the end"):
        call("darts", problem, state, meta, Window(window.inner, (window.outer[-1], window.outer[-1])))
