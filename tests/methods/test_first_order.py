"""The first-order hypergradient: first-order MAML for a start, the sweep through the updates alone where the update is learned."""

from __future__ import annotations

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, relative_error
from small_problems import (
    LearnedStart,
    LearnedStartOfBody,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    SummedOuter,
    Tanh,
    WeightedExamples,
)

from metabench.autodiff.gradients import gradients, inner_gradient, outer_gradient
from metabench.autodiff.inner import begin, detached, run, step
from metabench.core import InnerState, MetaRole, Problem, Tree, Unsupported, Window, tree
from metabench.measure.memory.meter import measure_memory


@pytest.mark.parametrize("kind", [LearnedStart, LearnedStartOfBody])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_for_a_start_it_is_the_outer_gradient_at_the_last_iterate(optimiser: str, kind: type[LearnedStart]) -> None:
    problem = kind(optimiser, inner_steps=4)
    state, meta, window = checkpoint(problem)
    found = call("first_order", problem, state, meta, window)
    end = run(problem, detached(begin(problem, state, meta)), meta, window.inner)
    slope = outer_gradient(problem, end.params, meta, window.outer[-1]).params
    assert all(torch.equal(leaf, slope[name]) for name, leaf in found.meta.items())


def test_it_adds_the_outer_gradients_due_along_the_way() -> None:
    problem = LearnedStart("adam", inner_steps=3)
    state, meta, window = checkpoint(problem)
    summed = Window(window.inner, (window.outer[-1], None, window.outer[-1]))
    found = call("first_order", problem, state, meta, summed)
    expected, current, value = tree.zeros_like(meta), detached(begin(problem, state, meta)), 0.0
    for inner, outer in zip(summed.inner, summed.outer, strict=True):
        current = step(problem, current, meta, inner)
        if outer is not None:
            due = outer_gradient(problem, current.params, meta, outer)
            expected, value = tree.add(expected, due.params), value + due.loss
    assert relative_error(found.meta, expected) <= 1e-15
    assert found.outer_loss == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("steps", [1, 5])
def test_it_differs_from_the_unrolled_hypergradient_by_terms_of_the_order_of_the_learning_rate(steps: int) -> None:
    errors = []
    for scale in (1.0, 0.1, 0.01):

        class Slow(LearnedStart):
            def learning_rate(self, optimiser: str) -> float:
                return 0.02 * scale  # noqa: B023

        problem = Slow(inner_steps=steps)
        at = checkpoint(problem, windows_before=0)
        errors.append(relative_error(call("first_order", problem, *at).meta, call("unrolled", problem, *at).meta))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.5)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def constant_gradients(problem: Problem, at: tuple[InnerState, Tree, Window]) -> Tree:
    """Return dF/dl by reverse mode through a run whose inner gradients are numbers."""
    state, meta, window = at
    leaves = tree.leaves_for_grad(meta)
    current, objective = begin(problem, state, leaves), torch.zeros((), dtype=torch.float64)
    for inner, outer in zip(window.inner, window.outer, strict=True):
        gradient = inner_gradient(problem, tree.detach(current.params), meta, inner)
        current = InnerState(*problem.optimiser.update(gradient, current.params, current.optimiser, leaves))
        if outer is not None:
            objective = objective + problem.outer_loss(current.params, leaves, outer)
    return gradients(objective, [leaves])[0]


class LearnedStartAndRate(LearnedStart):
    """Initial parameters and one learning rate are learned together, as in Meta-SGD."""

    roles = frozenset({MetaRole.START, MetaRole.UPDATE})

    def learning_rate(self, optimiser: str):  # type: ignore[no-untyped-def]
        return lambda meta, step: meta["log_rate"].exp()

    def initial_meta(self, params: Tree) -> Tree:
        return {**super().initial_meta(params), "log_rate": torch.tensor(-3.0, dtype=torch.float64)}


@pytest.mark.parametrize("kind", [LearningRates, SummedOuter, LearnedStartAndRate])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_where_the_update_is_learned_it_is_reverse_mode_with_constant_gradients(
    optimiser: str, kind: type[Tanh]
) -> None:
    problem = kind(optimiser, inner_steps=4)
    at = checkpoint(problem)
    assert relative_error(call("first_order", problem, *at).meta, constant_gradients(problem, at)) <= 1e-13


def test_for_a_learned_recurrent_update_it_goes_through_the_cells_state() -> None:
    problem = LearnedUpdate(inner_steps=5)
    at = checkpoint(problem)
    found = call("first_order", problem, *at).meta
    assert relative_error(found, constant_gradients(problem, at)) <= 1e-13
    assert float(found["remember"]) != 0


def test_for_learning_rates_of_sgd_it_is_the_sum_of_products_of_outer_and_inner_gradients() -> None:
    problem = LearningRates(inner_steps=3)
    state, meta, window = checkpoint(problem)
    slopes, current = [], state
    for batch in window.inner:
        slopes.append(inner_gradient(problem, current.params, meta, batch))
        current = step(problem, current, meta, batch)
    outer = outer_gradient(problem, current.params, meta, window.outer[-1]).params
    expected = {name: -leaf.exp() * sum((outer[name] * g[name]).sum() for g in slopes) for name, leaf in meta.items()}
    assert relative_error(call("first_order", problem, state, meta, window).meta, expected) <= 1e-13


@pytest.mark.parametrize("kind", [LearningRates, SummedOuter, LearnedStart])
def test_one_step_of_a_learned_update_has_no_second_order_term(kind: type[Tanh]) -> None:
    problem = kind("adam", inner_steps=1)
    at = checkpoint(problem)
    error = relative_error(call("first_order", problem, *at).meta, call("unrolled", problem, *at).meta)
    assert error > 1e-3 if kind is LearnedStart else error <= 1e-14


def test_the_direct_derivative_is_all_there_is_where_both_losses_see_the_meta_parameters() -> None:
    problem = OuterPenalty("adam")
    state, meta, window = checkpoint(problem)
    found = call("first_order", problem, state, meta, window)
    direct = outer_gradient(problem, found.state.params, meta, window.outer[-1]).meta
    assert relative_error(found.meta, direct) <= 1e-15
    outer_only = OuterOnly("adam")
    at = checkpoint(outer_only)
    assert relative_error(call("first_order", outer_only, *at).meta, call("unrolled", outer_only, *at).meta) <= 1e-14


@pytest.mark.parametrize("kind", [Tanh, WeightedExamples])
def test_where_the_inner_loss_alone_sees_them_it_refuses_and_never_answers_zero(kind: type[Tanh]) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match="enter the inner loss alone: its first-order part is zero"):
        call("first_order", problem, *checkpoint(problem))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["first_order", "reptile"])
def test_for_a_start_memory_does_not_grow_with_the_number_of_steps(name: str, optimiser: str) -> None:
    taken = []
    for steps in (3, 6, 48):
        problem = LearnedStart(optimiser, inner_steps=steps)
        at = checkpoint(problem)
        call(name, problem, *at)
        memory = measure_memory(lambda problem=problem, at=at: call(name, problem, *at), at, "cpu")[1]
        taken.append(memory.dynamic_bytes)
    assert taken[0] == taken[1] == taken[2]
