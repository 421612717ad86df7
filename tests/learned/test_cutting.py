"""Episodes: fresh state where one begins, carried within, losses due at w_{k+1}; and what cutting them into windows costs.

The reference is a loop over the quadratics of an episode that knows neither windows nor methods.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from bilevel import call, relative_error
from small_problems import LearningRates

from metabench.autodiff.unrolled import sweep
from metabench.core import InnerState, Problem, Tree, Window, tree
from metabench.core.problem import Setting
from metabench.measure.yardstick import plain_objective
from metabench.methods import method
from metabench.problems.learned_quadratics import LearnedQuadratics, Options
from metabench.stages.episode import compared_over_episode, joined, next_episode
from metabench.stages.subject import Subject

HORIZON = 6


def quadratics(inner_steps: int, optimiser: str = "lstm, hidden 3", **options: Any) -> Problem:
    chosen = Options(tasks=2, horizon=HORIZON, optimiser=optimiser, **options)
    return LearnedQuadratics(Setting("d5", chosen, inner_steps, 0, torch.device("cpu"), torch.float64, None))


def by_windows(problem: Problem, windows: int) -> Iterator[tuple[Tree, float]]:
    """Yield hypergradient and outer objective of `unrolled` at one window after another, states carried."""
    meta, state = problem.initial(), None
    for tasks in itertools.islice(problem.window_lists(), windows):
        entered, state = problem.entered(tasks[0], state)
        found = call("unrolled", entered, state, meta, tasks[0])
        state = found.state
        yield found.meta, found.outer_loss


def by_hand(problem: Any, lengths: list[int], episodes: int) -> Iterator[tuple[Tree, float]]:
    """Yield the same by a loop over steps; `lengths` are those of an episode's windows."""
    windows = problem.window_lists()
    for _ in range(episodes):
        first = next(windows)[0]
        task = first.inner[0]
        matrix, target = task["matrix"], task["target"]
        w, slots = first.begins["w"], problem.optimiser.init(first.begins)
        for _ in lengths[1:]:
            next(windows)
        for length in lengths:
            meta = tree.leaves_for_grad(problem.initial())
            total = torch.zeros((), dtype=torch.float64)
            w, slots = w.detach(), {slot: tree.detach(leaves) for slot, leaves in slots.items()}
            for _ in range(length):
                misfit = torch.einsum("nij,nj->ni", matrix, w) - target
                gradient = 2 * torch.einsum("nij,ni->nj", matrix, misfit)
                moved, slots = problem.optimiser.update({"w": gradient}, {"w": w}, slots, meta)
                w = moved["w"]
                total = total + (torch.einsum("nij,nj->ni", matrix, w) - target).square().sum() / len(w)
            slopes = torch.autograd.grad(total, list(meta.values()))
            yield dict(zip(meta, slopes, strict=True)), float(total.detach())


def agree(problem: Problem, lengths: list[int]) -> bool:
    pairs = zip(by_windows(problem, 2 * len(lengths)), by_hand(problem, lengths, 2), strict=True)
    return all(
        relative_error(found, expected) <= 1e-10 and abs(loss - value) <= 1e-12 * value
        for (found, loss), (expected, value) in pairs
    )


@pytest.mark.parametrize(("inner_steps", "lengths"), [(6, [6]), (4, [4, 2]), (2, [2, 2, 2]), (9, [6])])
def test_windows_are_those_of_a_loop_over_the_steps_of_episodes(inner_steps: int, lengths: list[int]) -> None:
    assert agree(quadratics(inner_steps), lengths)


def not_reset(entered: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, window, state: entered(self, window if state is None else replace(window, begins=None), state)


def reset_always(entered: Callable[..., Any]) -> Callable[..., Any]:
    def planted(self: Problem, window: Window, state: InnerState | None) -> Any:
        problem, state = entered(self, window, state)
        return problem, InnerState(state.params, self.optimiser.init(state.params))

    return planted


@pytest.mark.parametrize("plant", [not_reset, reset_always])
def test_a_state_that_is_not_reset_or_reset_at_every_window_is_found(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Problem, "entered", plant(Problem.entered))
    assert not agree(quadratics(2), [2, 2, 2])


def test_losses_at_the_parameters_before_a_step_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(sweep.through_graph)
    step, loss = "current = recorded_step(", "problem.outer_loss(current.params"
    assert source.count(step) == source.count(loss) == 1
    planted = source.replace(step, "before, current = current, recorded_step(").replace(
        loss, loss.replace("current", "before")
    )
    space = vars(sweep).copy()
    exec(compile(planted, "<planted>", "exec", dont_inherit=True, flags=0x1000000), space)  # annotations stay text
    monkeypatch.setattr(sys.modules["metabench.methods.unrolled"], "through_graph", space["through_graph"])
    assert not agree(quadratics(2), [2, 2, 2])


def subject(name: str, problem: Problem, check_seconds: float = 100.0, **measure: int) -> Subject:
    settings = {"checkpoint": 1, "error_windows": 1, "error_draws": 2, "error_max_params": 1000} | measure
    chosen = method(name)
    return Subject(
        make=lambda dtype: problem,
        dtype="float64",
        method=chosen,
        options=chosen.options(),
        seed=0,
        device="cpu",
        measure=settings,
        limit_bytes=None,
        check_seconds=check_seconds,
        outer_steps=1,
        first=True,
        progress=lambda *said: None,
    )


def found(name: str, problem: Problem, **measure: Any) -> dict[str, Any]:
    return compared_over_episode(subject(name, problem, **measure), problem, problem.initial(), "")


def test_the_sum_over_windows_is_compared_with_the_slope_of_the_whole_episode() -> None:
    problem = quadratics(2)
    meta = problem.initial()
    windows = next_episode(problem, 1)
    assert [window.begins is None for window in windows] == [False, True, True]
    whole = joined(windows)
    expected = found("unrolled", problem)
    state = problem.entered(whole, None)[1]
    objective = plain_objective(problem, state, meta, whole, HORIZON)
    cut = list(by_windows(problem, 6))[3:]
    summed = tree.scale(3.0, tree.mean(one for one, _ in cut))
    slope = (objective(tree.add_scaled(meta, 1e-5, summed)) - objective(tree.add_scaled(meta, -1e-5, summed))) / 2e-5
    size = float(tree.norm(summed))
    # <g, summed> = cosine |g| |summed| and |summed| = ratio |g|.
    assert slope == pytest.approx(expected["episode_cosine"] * size**2 / expected["episode_norm_ratio"], rel=1e-6)
    assert 0 < expected["episode_cosine"] < 0.99999


def test_what_is_not_cut_has_no_figure_and_what_cannot_be_had_says_why() -> None:
    assert found("unrolled", quadratics(HORIZON)) == {}
    assert found("unrolled", LearningRates("sgd")) == {}, "an inner run that never ends"
    assert found("unrolled", quadratics(2), error_max_params=9) == {
        "message": "no hypergradient of a whole episode: more than 9 inner parameters"
    }
    assert "s are allowed" in found("unrolled", quadratics(2), check_seconds=0.0)["message"]
    assert found("pes", quadratics(2)).keys() == {"episode_cosine", "episode_norm_ratio"}
