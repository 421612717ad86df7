"""An inner run begins where a window says so, and continues elsewhere: what a method is given, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from bilevel import call, relative_error
from small_problems import LearnedStart, Tanh

from metabench.autodiff.optimisers import inner_optimiser, scheduled
from metabench.core import InnerState, MetabenchError, MetaRole, Problem, Tree, Unsupported, Window, tree
from metabench.core.randomness import generator
from metabench.core.schedules import Cosine
from metabench.measure.yardstick import disagreement


class Episodes(LearnedStart):
    """Learned initial parameters and penalties; runs of `length` windows, several tasks at once, each at another place of its run."""

    roles = frozenset({MetaRole.START, MetaRole.INNER_LOSS})
    length = 3
    tasks = 2

    def initial_meta(self, params: Tree) -> Tree:
        return super().initial_meta(params) | {"penalty": torch.tensor(-2.0, dtype=self.setting.dtype)}

    def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        return super().inner_loss(params, meta, batch) + meta["penalty"].exp() * params["in"].square().sum()

    def windows(self) -> Iterator[Sequence[Window]]:
        params, _ = self.beginning()
        step = 0
        while True:
            yield [
                replace(self.window(), begins=params if step == 0 or (step + task) % self.length == 0 else None)
                for task in range(self.tasks)
            ]
            step += 1


def test_a_run_begins_with_fresh_state_and_an_empty_memory() -> None:
    problem = Episodes("momentum")
    window = next(problem.windows())[0]
    ended = InnerState(
        tree.scale(2.0, window.begins or {}), {"momentum": window.begins or {}}, {"solution": window.begins or {}}
    )
    seen, state = problem.entered(window, ended)
    assert seen is problem and state.params is window.begins and not state.memory
    assert not tree.flatten(state.optimiser["momentum"]).any()


def test_a_schedule_goes_on_with_the_run_and_starts_anew_with_another() -> None:
    problem = Episodes("sgd", inner_steps=2)
    problem.optimiser = inner_optimiser("sgd", scheduled(0.1, Cosine(6)))
    state: InnerState | None = None
    seen = []
    for tasks, _ in zip(problem.windows(), range(7), strict=False):
        at, state = problem.entered(tasks[0], state)
        seen.append(float(state.optimiser["step"]["count"]))
        state = call("mixflow", at, state, problem.initial(), tasks[0]).state
    assert seen == [0, 2, 4, 0, 2, 4, 0]


def test_a_run_continues_from_the_state_before_and_its_start_is_past() -> None:
    problem = Episodes("momentum")
    first, second = (tasks[0] for tasks, _ in zip(problem.windows(), range(2), strict=False))
    seen, state = problem.entered(first, None)
    after = call("unrolled", seen, state, problem.initial(), first).state
    seen, state = problem.entered(second, after)
    assert state is after and seen.roles == {MetaRole.INNER_LOSS} and problem.roles != seen.roles
    assert seen.start(state.params, problem.initial()) is state.params
    assert problem.entered(second, after)[0] is seen  # one for the whole run: traces are kept with it


@pytest.mark.parametrize("name", ["unrolled", "unrolled_remat", "mixflow", "forward", "truncated", "t1t2", "ift_cg"])
def test_in_the_middle_of_a_run_methods_hold_the_start_constant(name: str) -> None:
    problem = Episodes("sgd")
    meta, windows = problem.initial(), (tasks[0] for tasks in problem.windows())
    first, second = next(windows), next(windows)
    seen, state = problem.entered(second, call("unrolled", *problem.entered(first, None), meta, first).state)
    found = call(name, seen, state, meta, second)
    assert not any(tree.flatten({name: leaf}).any() for name, leaf in found.meta.items() if name != "penalty")
    if name in ("unrolled", "unrolled_remat", "mixflow", "forward"):
        compared = disagreement(seen, state, meta, second, found.meta, generator(0, "differences"))
        assert compared.error < 1e-6 and float(found.meta["penalty"].abs()) > 0


def test_a_method_that_learns_the_start_alone_says_that_it_is_past() -> None:
    problem = Episodes("sgd")
    first, second = (tasks[0] for tasks, _ in zip(problem.windows(), range(2), strict=False))
    seen, state = problem.entered(
        second, call("unrolled", *problem.entered(first, None), problem.initial(), first).state
    )
    with pytest.raises(Unsupported, match="not the initial parameters"):
        call("reptile", seen, state, problem.initial(), second)


def test_a_first_window_that_begins_no_run_is_named() -> None:
    problem = Tanh()
    with pytest.raises(MetabenchError, match=r"first window begins no inner run.*`begins`"):
        problem.entered(problem.window(), None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda begins: {"other": begins["in"]}, r"begins with the parameters \['other'\]"),
        (
            lambda begins: begins | {"in": begins["in"][:1]},
            r"parameter 'in' of shape \(1, .*the run before it has one of shape",
        ),
        (lambda begins: tree.cast(begins, torch.float32), "float32, and the run before it has .* torch.float64"),
    ],
)
def test_a_run_that_begins_with_other_parameters_is_named(change: Any, words: str) -> None:
    problem = Tanh()
    window = next(iter(problem.windows()))[0]
    _, state = problem.entered(window, None)
    with pytest.raises(MetabenchError, match=words):
        problem.entered(replace(window, begins=change(window.begins)), state)


def test_the_last_steps_of_a_window_begin_no_run() -> None:
    window = next(iter(Tanh().windows()))[0]
    assert window.begins is not None and window.last(2).begins is None


def test_the_same_steps_in_windows_or_at_once_end_in_the_same_state() -> None:
    problem: Problem = Episodes("adam")
    meta, windows = problem.initial(), (tasks[0] for tasks in problem.windows())
    three = [next(windows) for _ in range(3)]
    state = None
    for window in three:
        seen, state = problem.entered(window, state)
        state = call("unrolled", seen, state, meta, window).state
    whole = Window(
        tuple(batch for window in three for batch in window.inner),
        tuple(batch for window in three for batch in window.outer),
        three[0].begins,
    )
    seen, begun = problem.entered(whole, None)
    at_once = call("unrolled", seen, begun, meta, whole).state
    assert state is not None and relative_error(state.params, at_once.params) <= 1e-12
