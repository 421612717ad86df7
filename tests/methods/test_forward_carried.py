"""Tangents that go on from window to window: the hypergradient of the whole run so far, each step at the meta-parameters of its time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import assert_derivative, call, checkpoint, relative_error
from small_problems import LearnedStart, LearningRates, SummedOuter, Tanh

from metabench.autodiff.inner import begun, trained
from metabench.core import InnerState, MetabenchError, Problem, Tree, Unsupported, Window, tree
from metabench.methods import method


class OneRun(LearnedStart):
    """The start is learned, and one run goes on: after its first window no other method knows of it."""

    restarts = False


def windows_of(problem: Problem, count: int) -> list[Window]:
    return [tasks[0] for tasks, _ in zip(problem.windows(), range(count), strict=False)]


@pytest.mark.parametrize("make", [lambda: Tanh("adam"), lambda: LearningRates("momentum"), SummedOuter, OneRun])
def test_it_is_the_derivative_of_all_windows_so_far_at_the_meta_parameters_of_their_time(make: Any) -> None:
    problem = make()
    windows, meta = windows_of(problem, 3), problem.initial()
    metas, last, results = [], None, []
    for window in windows:
        entered, state = method("forward_carried").entered(problem, window, last)
        found = call("forward_carried", entered, state, meta, window)
        metas.append(meta)
        results.append(found)
        last, meta = found.state, tree.add_scaled(meta, -0.05, found.meta)

    def after(count: int, moved: Tree) -> float:
        """The objective of window number `count`, every window's meta-parameters moved by as much."""
        value, state = 0.0, None
        for window, at in zip(windows[: count + 1], metas, strict=False):
            entered, state = problem.entered(window, state)
            state, value = trained(entered, state, tree.add(at, moved), window)
        return value

    for count, found in enumerate(results):
        zero = tree.zeros_like(meta)
        assert_derivative(found.meta, lambda moved, count=count: after(count, moved), zero, tolerance=1e-8)
    # In the first window it is forward mode; later the windows before have a share.
    entered, state = problem.entered(windows[0], None)
    assert relative_error(results[0].meta, call("forward", entered, state, metas[0], windows[0]).meta) == 0
    alone = call("forward", *problem.entered(windows[1], results[0].state), metas[1], windows[1]).meta
    assert relative_error(results[1].meta, alone) > 1e-3


def test_windows_of_a_step_at_still_meta_parameters_are_one_long_window() -> None:
    problem = Tanh("momentum", inner_steps=6)
    state, meta, window = checkpoint(problem)
    whole, now = call("unrolled", problem, state, meta, window).meta, state
    for batch in window.inner:
        found = call("forward_carried", problem, now, meta, Window.ending_in((batch,), window.outer[-1] or {}))
        now = found.state
    assert relative_error(found.meta, whole) <= 1e-12
    one_step = call("t1t2", problem, begun(problem, state, meta), meta, window).meta
    assert relative_error(one_step, whole) > 1e-3


def test_what_it_is_given_stays_as_it_is() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    first = call("forward_carried", problem, state, meta, window).state
    kept = {name: {key: leaf.clone() for key, leaf in leaves.items()} for name, leaves in first.memory.items()}
    call("forward_carried", problem, first, meta, window)
    assert all(torch.equal(leaf, kept[name][key]) for name, leaves in first.memory.items() for key, leaf in leaves.items())


def test_too_many_tangents_and_those_of_another_run_are_refused() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    size = tree.count(meta)
    held = size * sum(8 * leaf.numel() for leaves in (state.params, *state.optimiser.values()) for leaf in leaves.values())
    with pytest.raises(Unsupported, match=f"{size} meta-parameters, and forward mode takes at most 1 .*, {held:,} bytes in all"):
        call("forward_carried", problem, state, meta, window, most=1)
    foreign = InnerState(state.params, state.optimiser, {"adjoint": state.params})
    with pytest.raises(MetabenchError, match="no 'tangents of params': it is that of another method"):
        call("forward_carried", problem, foreign, meta, window)
    fewer = call("forward_carried", problem, state, meta, window).state.memory
    fewer = {name: {key: leaf[:1] for key, leaf in leaves.items()} for name, leaves in fewer.items()}
    with pytest.raises(MetabenchError, match="'tangents of params' is of another model"):
        call("forward_carried", problem, InnerState(state.params, state.optimiser, fewer), meta, window)
