"""What cutting inner runs into windows costs: the sum of an episode's hypergradients against that of the whole episode, in float64.

An episode is an inner run that ends: it is followed by a window that begins another.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence

from metabench.autodiff.unrolled.checkpoint_schedules import square_root
from metabench.autodiff.unrolled.sweep import recomputed_step, sweep_back
from metabench.core import tree
from metabench.core.errors import MESSAGE_LENGTH, MetabenchError, TimeLimit
from metabench.core.lazy import torch
from metabench.core.method import Target
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window
from metabench.measure.outcome import outcome
from metabench.stages.error import Comparison, compare
from metabench.stages.subject import PRECISE, Row, Subject

MOST = 128
"""Windows among which an episode has to end to be seen as one."""


def episode(subject: Subject) -> Iterator[Row]:
    """Yield cosine and ratio of norms of an episode's summed hypergradients with the exact one, at the initial meta-parameters."""
    if subject.measure["error_windows"] and subject.method.target is not Target.NONE:
        problem = subject.make(PRECISE)
        yield compared_over_episode(subject, problem, problem.initial(), "")


def trained_episode(subject: Subject, meta: Tree) -> Row:
    """Return the same at trained meta-parameters."""
    if not subject.measure["error_windows"] or subject.method.target is Target.NONE:
        return {}
    return compared_over_episode(subject, subject.make(PRECISE), tree.cast(meta, torch.float64), "_trained")


def compared_over_episode(subject: Subject, problem: Problem, meta: Tree, suffix: str) -> Row:
    """Return the columns of the first episode after the checkpoint, or a message that says why they are missing.

    Nothing where no inner run of several windows ends. The meta-parameters stay; states are carried as the method returns them.
    """
    windows = next_episode(problem, subject.measure["checkpoint"])
    if len(windows) < 2:
        return {}
    assert windows[0].begins is not None
    if tree.count(windows[0].begins) > subject.measure["error_max_params"]:
        return {
            "message": f"no hypergradient of a whole episode: more than {subject.measure['error_max_params']} inner parameters"
        }
    subject.tell(f"hypergradient of a whole episode of {len(windows)} windows")
    draws = subject.measure["error_draws"] if subject.method.stochastic else 1
    try:
        found = _compared(subject, problem, meta, windows, draws)
    except TimeLimit:
        raise
    except Exception as error:  # a figure besides: the row says why it is missing, and keeps the others
        why = str(error) if isinstance(error, MetabenchError) else outcome(error)[1]
        return {"message": f"no hypergradient of a whole episode: {why}"[:MESSAGE_LENGTH]}
    if not found:
        return {"message": "no hypergradient of a whole episode: it is zero"}
    return {
        f"episode_{name}{suffix}": statistics.fmean(getattr(one, name) for one in found)
        for name in ("cosine", "norm_ratio")
    }


def next_episode(problem: Problem, after: int) -> Sequence[Window]:
    """Return the windows of the first episode of the first task that begins after `after` windows or later; empty if none does and ends."""
    firsts = (tasks[0] for tasks in itertools.islice(problem.window_lists(), after, after + 2 * MOST))
    coming = list(itertools.islice(itertools.dropwhile(lambda window: window.begins is None, firsts), MOST + 1))
    ends = next((k for k, window in enumerate(coming) if k and window.begins is not None), 0)
    return coming[:ends]


def joined(windows: Sequence[Window]) -> Window:
    """Return windows of one inner run as one window."""
    return Window(
        tuple(batch for window in windows for batch in window.inner),
        tuple(batch for window in windows for batch in window.outer),
        windows[0].begins,
    )


def whole_hypergradient(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Tree:
    """Return the exact hypergradient of a long window, in the memory of about 2 sqrt(K) states."""
    return sweep_back(problem, state, meta, window, recomputed_step, square_root(len(window.inner))).meta


def summed(subject: Subject, problem: Problem, meta: Tree, windows: Sequence[Window], stream: torch.Generator) -> Tree:
    """Return the sum of the method's hypergradients over the windows of an inner run, from its beginning."""
    state: InnerState | None = None
    total = tree.zeros_like(meta)
    for window in windows:
        entered, state = subject.method.entered(problem, window, state)
        found = subject.hypergradient(entered, state, meta, window, stream)
        state, total = found.state, tree.add(total, found.meta)
    return total


def _compared(
    subject: Subject, problem: Problem, meta: Tree, windows: Sequence[Window], draws: int
) -> list[Comparison]:
    """Return each draw's sum compared with the exact hypergradient; none where that is zero."""
    entered, state = problem.entered(windows[0], None)
    begun = time.perf_counter()
    whole_hypergradient(entered, state, meta, windows[0])
    needed = (1 + 0.5 * draws) * (time.perf_counter() - begun) * len(windows)
    if needed > subject.check_seconds:
        raise MetabenchError(f"it takes about {needed:.2g} s, and {subject.check_seconds:.2g} s are allowed")
    exact = whole_hypergradient(entered, state, meta, joined(windows))
    if not float(tree.norm(exact)) > 0:
        return []
    stream = subject.stream("episode")
    return [compare(summed(subject, problem, meta, windows, stream), exact) for _ in range(draws)]
