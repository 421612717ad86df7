"""Forward mode is the unrolled hypergradient, by tangents that take the same memory whatever the number of steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bilevel import OPTIMISERS, assert_derivative, call, checkpoint, make_problem, objective, relative_error
from small_problems import (
    LearnedStart,
    LearnedStartOfBody,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    Ridge,
    SummedOuter,
    Tanh,
    WeightedExamples,
)

from metabench.autodiff.inner import begin, detached
from metabench.autodiff.unrolled.forward_mode import start_tangents, step_with_tangents, units
from metabench.core import Batch, MetabenchError, Problem, Tree, Unsupported, Window, tree
from metabench.measure.memory.meter import measure_memory

KINDS = (
    Tanh,
    LearningRates,
    SummedOuter,
    LearnedUpdate,
    LearnedStart,
    LearnedStartOfBody,
    OuterPenalty,
    OuterOnly,
    WeightedExamples,
)
TOGETHER = pytest.mark.parametrize("together", [1, 8])


# Every optimiser and every kind meet both numbers of tangents.
@pytest.mark.parametrize(
    ("optimiser", "kind", "together"),
    [(one, kind, (1, 8)[(i + j) % 2]) for i, one in enumerate(OPTIMISERS) for j, kind in enumerate(KINDS)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_it_equals_reverse_mode_wherever_meta_parameters_enter(
    optimiser: str, kind: Callable[..., Problem], together: int
) -> None:
    problem = kind(inner_steps=5) if kind is LearnedUpdate else kind(optimiser, inner_steps=5)
    at = checkpoint(problem)
    found, expected = call("forward", problem, *at, together=together), call("unrolled", problem, *at)
    assert relative_error(found.meta, expected.meta) <= 1e-11
    assert relative_error(found.state.params, expected.state.params) <= 1e-12
    assert found.outer_loss == pytest.approx(expected.outer_loss, rel=1e-12)


@TOGETHER
@pytest.mark.parametrize("size", ["mlp64", "conv8"])
def test_it_equals_reverse_mode_through_networks(size: str, together: int) -> None:
    problem = make_problem("label_noise", dataset="digits", size=size, inner_steps=2, hidden=3, detach=False)
    at = checkpoint(problem)
    found = call("forward", problem, *at, together=together).meta
    assert relative_error(found, call("unrolled", problem, *at).meta) <= 1e-11


def test_its_tangents_on_ridge_regression_are_the_recurrence_of_the_dense_jacobian() -> None:
    problem = Ridge(features=4, inner_steps=7)
    state, meta, window = checkpoint(problem)
    current, tangents = state, start_tangents(problem, state, state, meta, units(meta), tree.count(meta))
    jacobian = torch.zeros(4, 4, dtype=torch.float64)
    contraction = torch.eye(4, dtype=torch.float64) - 0.1 * problem.hessian(meta)
    for batch in window.inner:
        jacobian = contraction @ jacobian - 0.1 * torch.diag(problem.mixed(current.params, meta))
        current, _ = step_with_tangents(
            problem, current, tangents, meta, batch, 2, units(meta), tree.count(meta)
        )
        torch.testing.assert_close(tangents.params["w"].T, jacobian, rtol=1e-12, atol=1e-14)


def test_the_tangents_of_a_learned_start_are_unit_vectors_and_of_a_fixed_part_zero() -> None:
    problem = LearnedStartOfBody("adam")
    state, meta, _ = checkpoint(problem)
    started = detached(begin(problem, state, meta))
    tangents = start_tangents(problem, state, started, meta, units(meta), tree.count(meta))
    learned = torch.cat([tangents.params[name].reshape(tree.count(meta), -1) for name in meta], 1)
    assert torch.equal(learned, torch.eye(tree.count(meta), dtype=torch.float64))
    assert not tangents.params["out"].any()
    assert not any(leaf.any() for slot in tangents.optimiser.values() for leaf in slot.values())


def test_outer_losses_due_along_the_way_and_none_at_the_end() -> None:
    problem = Tanh("momentum", inner_steps=5)
    state, meta, window = checkpoint(problem)
    due = window.outer[-1]
    moved = Window(window.inner, (None, due, None, due, None))
    found = call("forward", problem, state, meta, moved)
    assert_derivative(found.meta, objective(problem, state, moved), meta)


@TOGETHER
def test_its_memory_does_not_grow_with_the_number_of_steps(together: int) -> None:
    taken = {}
    for steps in (2, 4, 16):
        problem = WeightedExamples("adam", inner_steps=steps)
        at = checkpoint(problem)
        call("forward", problem, *at, together=together)
        taken[steps] = measure_memory(
            lambda problem=problem, at=at: call("forward", problem, *at, together=together), at, "cpu"
        )[1].dynamic_bytes
    assert taken[16] == taken[4]
    assert taken[4] <= 1.02 * taken[2]


def test_its_memory_grows_with_the_number_of_meta_parameters() -> None:
    few, many = (
        measure_memory(lambda problem=problem, at=at: call("forward", problem, *at, together=1), at, "cpu")[1]
        for problem in (WeightedExamples(examples=12), WeightedExamples(examples=120))
        for at in [checkpoint(problem)]
    )
    state = tree.count(checkpoint(WeightedExamples())[0].params)
    assert many.dynamic_bytes - few.dynamic_bytes >= (120 - 12) * state * 8


def test_more_meta_parameters_than_it_takes_are_refused_with_both_numbers() -> None:
    problem = WeightedExamples(examples=1001)
    with pytest.raises(Unsupported, match=r"1,001 meta-parameters, .* at most 1,000 \(option 'most'\)"):
        call("forward", problem, *checkpoint(problem))
    at = checkpoint(problem)
    found = call("forward", problem, *at, most=1001, together=200)
    assert relative_error(found.meta, call("unrolled", problem, *at).meta) <= 1e-12
    for name in ("most", "together"):
        with pytest.raises(MetabenchError, match=rf"option '{name}' of method 'forward': must be at least 1"):
            call("forward", problem, *at, **{name: 0})


class Branching(Tanh):
    """A loss with a branch that reads a number out of a tensor: torch.func.vmap does not take it."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        loss = super().inner_loss(params, meta, batch)
        return 2 * loss if loss.item() > 0 else loss


class Silent(Tanh):
    """An inner loss that sees neither parameters nor meta-parameters."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return batch["targets"].square().mean()


def test_one_tangent_at_a_time_takes_losses_that_read_numbers_out_of_tensors() -> None:
    problem = Branching("nesterov")
    at = checkpoint(problem)
    found = call("forward", problem, *at, together=1).meta
    assert relative_error(found, call("unrolled", problem, *at).meta) <= 1e-12


@TOGETHER
def test_a_loss_that_sees_nothing_leaves_zero_tangents(together: int) -> None:
    problem = Silent("adam")
    assert not tree.flatten(call("forward", problem, *checkpoint(problem), together=together).meta).any()
