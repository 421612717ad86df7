"""What the contract has to carry: wherever the meta-parameters enter, a method is right or says that it cannot answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bilevel import OPTIMISERS, UNROLLED_FAMILY, assert_derivative, call, checkpoint, objective, relative_error
from small_problems import (
    LearnedStart,
    LearnedStartOfBody,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    SummedOuter,
    Tanh,
    Tasks,
    WeightedExamples,
)

from metabench.core import Problem, Unsupported, Window, tree

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
    Tasks,
)
everywhere = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@everywhere
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_unrolling_equals_finite_differences_wherever_meta_parameters_enter(
    steps: int, kind: Callable[..., Problem]
) -> None:
    problem = kind(inner_steps=steps)
    state, meta, window = checkpoint(problem)
    found = call("unrolled", problem, state, meta, window)
    value = objective(problem, state, window)
    assert_derivative(found.meta, value, meta)
    assert found.outer_loss == pytest.approx(value(meta), rel=1e-12)


# Half of the optimisers with every other kind: what a method does with a kind does not depend on the optimiser.
@pytest.mark.parametrize(
    ("kind", "optimiser", "steps"),
    [(kind, OPTIMISERS[i], (1, 2, 3, 5, 7, 7)[i]) for place, kind in enumerate(KINDS) for i in range(place % 2, 6, 2)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_unrolled_family_agrees_wherever_meta_parameters_enter(
    kind: Callable[..., Problem], optimiser: str, steps: int
) -> None:
    problem = kind(inner_steps=steps) if kind is LearnedUpdate else kind(optimiser, inner_steps=steps)
    at = checkpoint(problem)
    first, *others = [call(name, problem, *at, **options) for name, options in UNROLLED_FAMILY]
    for other in others:
        assert relative_error(other.meta, first.meta) <= 1e-10
        assert other.outer_loss == pytest.approx(first.outer_loss, rel=1e-12)


REFUSED = {
    LearningRates: ("ift_cg", "ift_neumann", "evograd"),
    SummedOuter: ("ift_cg", "ift_neumann", "evograd", "t1t2"),
    LearnedUpdate: ("ift_cg", "ift_neumann", "evograd", "t1t2"),
    LearnedStart: ("ift_cg", "ift_neumann", "evograd", "t1t2", "truncated"),
    LearnedStartOfBody: ("ift_cg", "ift_neumann", "evograd", "t1t2", "truncated"),
}


@everywhere
@pytest.mark.parametrize("name", ["truncated", "t1t2", "ift_cg", "ift_neumann", "evograd"])
def test_a_method_that_cannot_see_the_meta_parameters_says_so_and_never_answers_zero(
    name: str, kind: Callable[..., Problem]
) -> None:
    problem = kind(inner_steps=3)
    at = checkpoint(problem)
    options = {"steps": 2} if name == "truncated" else {}
    if name in REFUSED.get(kind, ()):
        with pytest.raises(Unsupported, match=r"meta-parameters|outer losses"):
            call(name, problem, *at, **options)
    else:
        assert float(tree.norm(call(name, problem, *at, **options).meta)) > 0


def test_a_window_whose_last_steps_owe_no_outer_loss_is_refused_by_methods_that_see_those_alone() -> None:
    problem = Tanh(inner_steps=4)
    state, meta, window = checkpoint(problem)
    early = Window(window.inner, (None, window.outer[-1], None, None))
    for name, options in UNROLLED_FAMILY:
        found = call(name, problem, state, meta, early, **options)
        assert_derivative(found.meta, objective(problem, state, early), meta)
    for name in ("t1t2", "ift_cg", "ift_neumann", "evograd"):
        with pytest.raises(Unsupported, match="outer losses are due before the end"):
            call(name, problem, state, meta, early)
    with pytest.raises(Unsupported, match="no outer loss is due in the last 2 steps"):
        call("truncated", problem, state, meta, early, steps=2)


def test_t1t2_sees_learning_rates_through_the_last_update() -> None:
    problem = LearningRates("adam", inner_steps=3)
    state, meta, window = checkpoint(problem)
    before = call("none", problem, state, meta, Window.ending_in(window.inner[:-1], window.outer[-1] or {})).state
    found = call("t1t2", problem, state, meta, window)
    assert_derivative(found.meta, objective(problem, before, window.last(1)), meta)


def test_the_part_of_the_start_that_is_not_learned_comes_from_the_state() -> None:
    problem = LearnedStartOfBody(inner_steps=2)
    state, meta, window = checkpoint(problem, windows_before=0)
    moved = type(state)({**state.params, "out": state.params["out"] + 1}, state.optimiser)
    ignored = type(state)({**state.params, "in": state.params["in"] + 1}, state.optimiser)
    for name, options in UNROLLED_FAMILY:
        here, there, same = (call(name, problem, at, meta, window, **options).meta for at in (state, moved, ignored))
        assert relative_error(there, here) > 1e-3
        assert relative_error(same, here) == 0


def test_a_meta_parameter_that_only_the_outer_loss_sees_has_its_direct_derivative_by_every_method() -> None:
    problem = OuterOnly(inner_steps=3)
    state, meta, window = checkpoint(problem)
    value = objective(problem, state, window)
    for name in ("unrolled", "unrolled_remat", "mixflow", "truncated", "t1t2", "ift_cg", "ift_neumann"):
        assert_derivative(call(name, problem, state, meta, window).meta, value, meta)


def test_tasks_have_their_own_inner_runs_and_their_mean_is_the_derivative_of_the_mean() -> None:
    problem = Tasks("momentum", inner_steps=3)
    state, meta = problem.initial_state()
    tasks = next(problem.windows())
    assert len(tasks) == 3
    for name, options in UNROLLED_FAMILY:
        found = tree.mean([call(name, problem, state, meta, task, **options).meta for task in tasks])
        values = [objective(problem, state, task) for task in tasks]
        assert_derivative(found, lambda at, values=values: sum(value(at) for value in values) / 3, meta)


def test_an_inner_run_is_carried_on_from_window_to_window() -> None:
    problem = Tanh("adam", inner_steps=2)
    state, meta = problem.initial_state()
    stream = problem.windows()
    first, second = next(stream)[0], next(stream)[0]
    whole = Window.ending_in(first.inner + second.inner, second.outer[-1] or {})
    middle = call("unrolled", problem, state, meta, first).state
    assert float(middle.optimiser["step"]["count"]) == 2
    found = call("unrolled", problem, middle, meta, second)
    # The state is carried and the derivative is not: a window is the truncated derivative of the whole run.
    expected = call("truncated", problem, state, meta, whole, steps=2)
    assert relative_error(found.meta, expected.meta) <= 1e-14
    assert relative_error(found.state.params, expected.state.params) == 0


def test_a_million_meta_parameters_of_which_a_batch_reads_a_few() -> None:
    problem = WeightedExamples(inner_steps=2, examples=1_000_000)
    state, meta, window = checkpoint(problem)
    read = torch.cat([batch["index"] for batch in window.inner]).unique()
    unread = torch.ones(1_000_000, dtype=torch.bool).index_fill(0, read, False)
    first = call("unrolled", problem, state, meta, window).meta
    for name in ("unrolled", "unrolled_remat", "mixflow", "truncated", "t1t2", "ift_cg", "ift_neumann", "evograd"):
        found = call(name, problem, state, meta, window).meta["logit"]
        assert found.shape == (1_000_000,)
        assert bool((found[unread] == 0).all())
        assert bool((found != 0).any())
        if name in ("unrolled_remat", "mixflow", "truncated"):
            assert relative_error({"logit": found}, first) <= 1e-12


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_hypergradients_are_finite_where_the_inner_gradient_is_zero(optimiser: str) -> None:
    problem = Tanh(optimiser, inner_steps=3)
    state, meta, window = checkpoint(problem, windows_before=0)
    # All parameters zero: hidden units are zero, and so is every gradient but that of nothing at all.
    still = type(state)(tree.zeros_like(state.params), state.optimiser)
    for name, options in (*UNROLLED_FAMILY, ("t1t2", {}), ("truncated", {"steps": 2})):
        assert tree.all_finite(call(name, problem, still, meta, window, **options).meta)
