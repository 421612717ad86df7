"""The outer loop: windows, hypergradients, meta-updates and validations, told as events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.inner import begun
from metabench.autodiff.inner import run as inner_run
from metabench.autodiff.outer import OuterUpdate
from metabench.core import tree
from metabench.core.curves import POINTS, Curve
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient, Method, Target
from metabench.core.problem import MetaStep, Problem, check_alike
from metabench.core.types import InnerState, Tree, Window
from metabench.measure.clock import Stopwatch
from metabench.measure.device import synchronise
from metabench.training.checkpoint import Checkpoint
from metabench.training.run import OUTER_LOSS, Best, Run

TIME = "time"
UNITS = {TIME: "s"}
"""Units of the curves that every run has."""
LOG = (OUTER_LOSS,)
"""Those that ask for a logarithmic axis where they span decades: a method that diverges would flatten the others."""


@dataclass(frozen=True)
class Answered:
    """A method answered for one task of an outer step; `step` counts those done before it."""

    step: int
    task: int
    window: Window
    hypergradient: Hypergradient


@dataclass(frozen=True)
class Updated:
    """The meta-parameters were updated; `step` counts the outer steps done, this one included."""

    step: int
    run: Run


@dataclass(frozen=True)
class Validated:
    """The problem was validated after outer step `step`; `improved` tells whether it is the best so far."""

    step: int
    values: Mapping[str, float | Curve]
    improved: bool


Event = Answered | Updated | Validated


def train(
    problem: Problem,
    method: Method,
    options: Any,
    run: Run,
    steps: int,
    checkpoint: Checkpoint | None = None,
    curve: Collection[int] = (),
) -> Iterator[Event]:
    """Continue `run` until `steps` outer steps are done or validation ends it; tell what happens on the way.

    `run` is changed as it goes, and is whole between events of two outer steps. The consumer's own time does not count as training. What
    the problem observes as a whole curve is kept of the outer steps in `curve`, besides the last.

    Raises:
        Diverged: an outer loss or a hypergradient is not finite.
        Interrupted: the process was asked to end, and the run is saved in `checkpoint`.
        MetabenchError: the problem's windows end, or one of its hooks returns something else than it has to.
    """
    windows = problem.window_lists(run.step)
    update = OuterUpdate(problem.outer_optimiser)
    clock, drawing = Stopwatch(run.seconds), Stopwatch(run.data_seconds)
    followed = math.ceil(steps / POINTS)
    # Without a meta-update there is nothing to look ahead for: the steps would be the same.
    looks_ahead = problem.meta_step is MetaStep.BEFORE and method.target is not Target.NONE
    if checkpoint is not None:
        checkpoint.begin()
    while run.step < steps and not run.stopped(problem):
        with clock, drawing:
            tasks = next(windows)
        found: list[Hypergradient] = []
        at_first: Mapping[str, float | Curve] = {}
        begun_from: list[tuple[Problem, InnerState]] = []
        for task, window in enumerate(tasks):
            with clock:
                entered, state = method.entered(problem, window, run.tasks.get(task))
            if run.step == task == 0:
                with torch.no_grad():
                    at_first = problem.observe(begun(entered, state, run.meta).params, run.meta)
            with clock:
                answer = method(entered, state, run.meta, window, options, run.stream)
            found.append(answer)
            run.tasks[task] = answer.state
            if looks_ahead:
                begun_from.append((entered, state))
            yield Answered(run.step, task, window, answer)
        with clock:
            hypergradient = tree.mean([one.meta for one in found])
            run.outer_loss = sum(one.outer_loss for one in found) / len(found)
            run.answer = found[0].answer
            if not math.isfinite(run.outer_loss):
                raise Diverged(f"the outer loss is {run.outer_loss} after {run.step + 1} of {steps} meta-updates")
            if not tree.all_finite(hypergradient):
                raise Diverged(f"the hypergradient is not finite after {run.step + 1} of {steps} meta-updates")
            if method.target is not Target.NONE:
                run.meta, run.optimiser = update.update(hypergradient, run.meta, run.optimiser)
            run.step += 1
            run.meta, run.memory = _after_update(problem, run)
            for task, (entered, state) in enumerate(begun_from):
                run.tasks[task] = _stepped_again(entered, state, run.meta, tasks[task], run.tasks[task])
            synchronise(next(iter(run.meta.values())).device)
        run.seconds, run.data_seconds = clock.seconds, drawing.seconds
        run.record.add(run.step, {OUTER_LOSS: run.outer_loss, TIME: run.seconds})
        run.record.add(0, at_first, "observe()", keep=0 in curve)
        if run.step % followed == 0 or run.step == steps or run.step in curve:
            with torch.no_grad():
                seen = problem.observe(run.tasks[0].params, run.meta)
            run.record.add(run.step, seen, "observe()", keep=run.step in curve)
        yield Updated(run.step, run)
        if problem.validation is not None and run.step % problem.validation.every == 0:
            yield _validate(problem, run)
        if checkpoint is not None:
            checkpoint.after_step(run, run.step == steps)


def _stepped_again(problem: Problem, state: InnerState, meta: Tree, window: Window, ahead: InnerState) -> InnerState:
    """Return the state after the window's inner steps at the updated `meta`, with what the method kept of its look ahead."""
    again = inner_run(problem, begun(problem, state, meta), meta, window.inner)
    return dataclasses.replace(again, memory=ahead.memory)


def _after_update(problem: Problem, run: Run) -> tuple[Tree, Mapping[str, Tree]]:
    """Return the meta-parameters and the memory of the hook; raise MetabenchError if it returns something else, or writes in place."""
    versions = {name: leaf._version for name, leaf in run.meta.items()}
    found: Any = problem.after_update(run.step, dict(run.meta), run.memory)
    # Where nothing was learned, these are the tensors that the problem began with, or those of the best validation.
    for name, leaf in run.meta.items():
        if leaf._version != versions[name]:
            raise MetabenchError(
                f"after_update() writes to the meta-parameter '{name}' in place, expected a new tensor"
            )
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Mapping) for part in found)):
        raise MetabenchError(
            f"after_update() returned a {type(found).__name__}, expected the meta-parameters and the memory"
        )
    meta, memory = found
    check_alike(meta, run.meta, "after_update() returned", "the update gave", "meta-parameter")
    return tree.detach(meta), memory


def _validate(problem: Problem, run: Run) -> Validated:
    """Validate, and keep what is best so far; a value that is not finite is no improvement."""
    rule = problem.validation
    assert rule is not None
    values = problem.validate(run.meta)
    run.record.add(run.step, values, "validate()")
    decisive = values.get(rule.metric.name)
    if decisive is None or isinstance(decisive, Curve):
        there = "as a curve" if decisive else f"of {', '.join(map(repr, values)) or 'nothing'}"
        raise MetabenchError(
            f"the problem's validation decides by the number '{rule.metric.name}', and validate() returned it {there}"
        )
    value = float(decisive)
    sign = 1 if rule.metric.direction == "max" else -1
    improved = math.isfinite(value) and (run.best is None or sign * value > sign * run.best.value)
    if improved:
        # Nothing changes a tree in place: to keep it is to refer to it.
        run.best, run.waited = Best(value, run.step, run.tasks[0].params, run.meta, run.answer), 0
    else:
        run.waited += 1
    return Validated(run.step, values, improved)
