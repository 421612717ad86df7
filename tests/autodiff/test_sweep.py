"""The sweep back over the steps keeps what its schedule says, and no more, and gives the same whatever that is."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from bilevel import assert_derivative, checkpoint, objective, relative_error
from small_problems import LearnedStartOfBody, SummedOuter, Tanh

from metabench.autodiff.derivatives import OnFlatGraphs, Recorded
from metabench.autodiff.unrolled import sweep
from metabench.autodiff.unrolled.checkpoint_schedules import Schedule, binomial, every_state, spaced, square_root
from metabench.autodiff.unrolled.sweep import pull_start, recomputed_step, split_step, sweep_back, through_graph
from metabench.core import InnerState, Window, tree


@pytest.mark.parametrize("schedule", [*map(spaced, (1, 2, 3, 7, 12, 50)), *map(binomial, range(5)), square_root(12)])
def test_any_schedule_gives_the_same(schedule: Schedule) -> None:
    for problem in (Tanh("adam", inner_steps=12), SummedOuter("rmsprop", inner_steps=12)):
        at = checkpoint(problem)
        found = sweep_back(problem, *at, recomputed_step, schedule)
        assert relative_error(found.meta, through_graph(problem, *at).meta) <= 1e-12


@pytest.mark.parametrize(
    ("schedule", "most"),
    [(every_state, 23), (square_root(23), 10), (binomial(4), 5), (binomial(1), 2), (binomial(0), 1)],
)
def test_the_states_alive_at_once_are_those_that_the_schedule_promises(
    schedule: Schedule, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Tanh("momentum", inner_steps=23)
    at = checkpoint(problem)
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    updated = sweep.updated

    def watched(*arguments: Any, **more: Any) -> InnerState:
        after = updated(*arguments, **more)
        made.append(weakref.ref(after.params["in"]))
        alive.append(sum(one() is not None for one in made))
        return after

    monkeypatch.setattr(sweep, "updated", watched)
    gc.disable()
    try:
        found = sweep_back(problem, *at, recomputed_step, schedule)
    finally:
        gc.enable()
    # On top: the end of the run, which is returned, and the state that a step has just made beside the one it started from.
    assert max(alive) <= most + 2
    assert sum(one() is not None for one in made) == 1
    assert relative_error(found.meta, through_graph(problem, *at).meta) <= 1e-12


@pytest.mark.parametrize("schedule", [every_state, square_root(6), binomial(2)])
@pytest.mark.parametrize(
    "made",
    [
        lambda problem: recomputed_step,
        lambda problem: split_step(Recorded(problem)),
        lambda problem: split_step(OnFlatGraphs(problem)),
    ],
    ids=["recomputed", "split, recorded", "split, flat graphs"],
)
def test_no_step_after_the_last_outer_loss_is_pulled_back(made: Any, schedule: Schedule) -> None:
    problem = Tanh("adam", inner_steps=6)
    state, meta, window = checkpoint(problem)
    early = Window(window.inner, (None, window.outer[-1], None, None, None, None))
    pulled: list[int] = []
    pullback = made(problem)

    def counted(*arguments: Any) -> Any:
        pulled.append(1)
        return pullback(*arguments)

    found = sweep_back(problem, state, meta, early, counted, schedule)
    assert len(pulled) == 2
    assert_derivative(found.meta, objective(problem, state, early), meta)
    whole = through_graph(problem, state, meta, window).state
    assert relative_error(found.state.params, whole.params) <= 1e-13
    assert found.outer_loss == pytest.approx(objective(problem, state, early)(meta), rel=1e-13)


def test_a_cotangent_of_the_start_reaches_the_parameters_that_are_learned() -> None:
    problem = LearnedStartOfBody()
    state, meta, _ = checkpoint(problem)
    cotangent = tree.tree_map(torch.ones_like, state.params)
    pulled = pull_start(problem, state, meta, cotangent)
    assert list(pulled) == list(meta)
    assert all(torch.equal(leaf, cotangent[name]) for name, leaf in pulled.items())
    assert math.isclose(float(tree.dot(pulled, pulled)), tree.count(meta))
