"""Plain training, without hypergradients, at meta-parameters that do not change."""

from __future__ import annotations

from collections.abc import Iterator

from metabench.autodiff.inner import begun, run
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window


def plain_windows(problem: Problem, meta: Tree) -> Iterator[tuple[Problem, InnerState, Window]]:
    """Yield what a method is given at one window of the first task after another: problem, state and window.

    Plain training at `meta` leads from each to the next; it runs when the next is needed.
    """
    state: InnerState | None = None
    for tasks in problem.window_lists():
        window = tasks[0]
        entered, state = problem.entered(window, state)
        yield entered, state, window
        state = run(entered, begun(entered, state, meta), meta, window.inner)
