"""Episodes: the same inner run however it is cut, fresh where one begins, of lengths and in phases that the seed decides."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
import torch
from learned_problems import SMALL, learned

from metabench.autodiff.inner import run
from metabench.core import MetabenchError, Window, tree
from metabench.core.errors import Diverged
from metabench.core.randomness import generator
from metabench.core.types import InnerState
from metabench.learned.problem import LearnedOptimiserProblem
from metabench.methods import method
from metabench.training.loop import train
from metabench.training.run import Run


def windows(problem: LearnedOptimiserProblem, count: int, after: int = 0) -> list[list[Window]]:
    return [list(places) for places in itertools.islice(problem.window_lists(after), count)]


def lengths(problem: LearnedOptimiserProblem, episodes: int, place: int = 0) -> list[int]:
    """Return the steps of the first episodes at a place."""
    found: list[int] = []
    for places in problem.window_lists():
        if places[place].begins is not None:
            if len(found) == episodes:
                return found
            found.append(0)
        found[-1] += len(places[place].inner)
    raise AssertionError


def parameters_along(problem: LearnedOptimiserProblem, steps: int) -> list[torch.Tensor]:
    """Return the parameters after each inner step of training at the initial meta-parameters, across episodes."""
    meta, state, found = problem.initial(), None, []
    for (window,) in problem.window_lists():
        entered, state = problem.entered(window, state)
        for batch in window.inner:
            state = run(entered, state, meta, [batch])
            found.append(tree.flatten(state.params))
            if len(found) == steps:
                return found
    raise AssertionError


@pytest.mark.parametrize("name", SMALL)
def test_the_inner_run_is_the_same_however_it_is_cut(name: str) -> None:
    whole = parameters_along(learned(name, inner_steps=5, horizon=5), 10)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(whole))
    for steps in (1, 2, 9):
        cut = parameters_along(learned(name, inner_steps=steps, horizon=5), 10)
        assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_an_episode_begins_with_new_parameters_and_a_fresh_state_and_goes_on_with_neither() -> None:
    problem = learned("learned_quadratics", inner_steps=2, horizon=5)
    meta, state, begun = problem.initial(), None, []
    for (window,) in (places for places in windows(problem, 6)):
        entered, state = problem.entered(window, state)
        fresh = all(not leaf.any() for leaves in state.optimiser.values() for leaf in leaves.values())
        assert fresh == (window.begins is not None)
        begun.append(window.begins)
        state = run(entered, state, meta, window.inner)
    assert [one is not None for one in begun] == [True, False, False, True, False, False]
    assert [len(places[0].inner) for places in windows(problem, 6)] == [2, 2, 1, 2, 2, 1]
    assert not torch.equal(begun[0]["w"], begun[3]["w"])


def test_the_outer_loss_of_a_step_is_on_the_batch_of_the_next() -> None:
    (first,), (second,) = windows(learned("learned_perceptron", inner_steps=2), 2)
    for due, following in zip(first.outer, (first.inner[1], second.inner[0]), strict=True):
        assert due is not None and torch.equal(due["inputs"], following["inputs"])
    assert not torch.equal(first.inner[0]["inputs"], first.inner[1]["inputs"])


@pytest.mark.parametrize(
    "options",
    [{"horizon": 5}, {"horizon": 7, "episodes": 3, "stagger": True}, {"horizon": 30, "shortest": 2, "episodes": 2}],
)
def test_windows_after_some_outer_steps_are_those_that_would_have_come(options: dict[str, Any]) -> None:
    problem = learned("learned_perceptron", inner_steps=2, **options)
    every = windows(problem, 12)
    for after in (1, 3, 8):
        for ours, theirs in zip(windows(problem, 12 - after, after), every[after:], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert (one.begins is None) == (other.begins is None)
                pairs = zip((*one.inner, *one.outer), (*other.inner, *other.outer), strict=True)
                assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in pairs)


def test_past_episodes_are_not_drawn_to_go_on() -> None:
    problem = learned("learned_quadratics", inner_steps=2, horizon=6)
    begun = []
    begin = problem.tasks.begin
    problem.tasks.begin = lambda part, stream: begun.append(part) or begin(part, stream)  # type: ignore[method-assign]
    next(problem.window_lists(3001))
    assert len(begun) == 1


def test_staggered_episodes_are_in_different_phases() -> None:
    problem = learned("learned_quadratics", inner_steps=2, horizon=8, episodes=4, stagger=True)
    assert [lengths(problem, 3, place) for place in range(4)] == [[8, 8, 8], [6, 8, 8], [4, 8, 8], [2, 8, 8]]
    together = learned("learned_quadratics", inner_steps=2, horizon=8, episodes=4)
    assert lengths(together, 2, 3) == [8, 8]


def test_lengths_are_drawn_log_uniformly() -> None:
    found = lengths(learned("learned_quadratics", inner_steps=50, horizon=200, shortest=20), 400)
    assert min(found) >= 20 and max(found) <= 200
    # The median of a log-uniform length is the geometric mean of its bounds.
    assert 55 < statistics.median(found) < 74
    assert found[:5] == lengths(learned("learned_quadratics", inner_steps=7, horizon=200, shortest=20), 5)


def test_a_shortest_episode_above_the_longest_is_refused() -> None:
    with pytest.raises(MetabenchError, match="the shortest episode has 9 steps, and `horizon`, the longest, 4"):
        learned("learned_quadratics", shortest=9)


def test_a_run_on_a_given_state_continues_it() -> None:
    problem = learned("learned_quadratics", inner_steps=2, horizon=5)
    (window,) = windows(problem, 2)[1]
    kept = InnerState({"w": torch.ones(3, 5, dtype=torch.float64)}, {})
    assert problem.entered(window, kept)[1] is kept


BOUNDED = ("lstm", "lstm, input log")
SQUARES = ("rnnprop", "mlp", "small_mlp")
"""Their slots hold squares of gradients, which are infinite in float32 from about 1e19 on."""


@pytest.mark.parametrize(
    ("optimiser", "factor", "finite"),
    [(name, factor, True) for name in (*BOUNDED, *SQUARES) for factor in (1e-30, 0.0)]
    + [(name, math.nan, False) for name in (*BOUNDED, *SQUARES)]
    + [(name, 1e30, name in BOUNDED) for name in (*BOUNDED, *SQUARES)],
)
def test_gradients_out_of_bounds_leave_meta_training_finite_or_end_it_with_the_step(
    optimiser: str, factor: float, finite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = learned("learned_quadratics", optimiser=optimiser, dtype=torch.float32)
    loss, begin, begun = problem.inner_loss, problem.tasks.begin, []
    # From the second episode on, so that there are steps before the one that is told.
    monkeypatch.setattr(problem, "inner_loss", lambda *given: loss(*given) * (factor if len(begun) > 1 else 1.0))
    monkeypatch.setattr(problem.tasks, "begin", lambda part, stream: begun.append(part) or begin(part, stream))
    made = Run.fresh(problem, generator(0, "training"))
    events = train(problem, method("unrolled"), None, made, 4)
    if finite:
        assert len(list(events)) == 8
        assert tree.all_finite(made.meta)
    else:
        with pytest.raises(Diverged, match=r"is (nan|inf|not finite) after [34] of 4 meta-updates"):
            list(events)
