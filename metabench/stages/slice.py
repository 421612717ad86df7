"""The hypergradient against a problem's only meta-parameter, over many trials: its mean, and how far one trial is from it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from metabench.core import tree
from metabench.core.curves import Curve
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.method import Target
from metabench.core.problem import Problem
from metabench.results.slices import CLOSED_FORM, DEVIATION, HYPERGRADIENT, MEAN
from metabench.stages.subject import PRECISE, Row, Subject
from metabench.training.plain import plain_windows


@runtime_checkable
class Solved(Protocol):
    """A problem whose hypergradient at the inner minimum has a closed form."""

    def implicit_hypergradient(self, meta: float) -> float:
        """Return it, at a value of the only meta-parameter."""


def along_meta(subject: Subject) -> Iterator[Row]:
    """Yield curves of the hypergradient at equally spaced values of the meta-parameter, in float64, over `kind_options.trials`.

    A trial is the problem of a seed of its own: its initial parameters and its first window. No two seeds of a cell share a trial.

    Raises:
        MetabenchError: the problem has more than one meta-parameter, or the method has no hypergradients.
        Diverged: a hypergradient is not finite.
    """
    options = subject.kind_options
    if subject.method.target is Target.NONE:
        raise MetabenchError("method 'none' has no hypergradients to show: take it out of experiments of kind 'slice'")
    width = (options.most - options.least) / (options.points - 1)
    values = [options.least + width * place for place in range(options.points)]
    stream = subject.stream("slice")
    trials = []
    for trial in range(options.trials):
        subject.tell("slice", trial, options.trials)
        trials.append(_one(subject, _of_trial(subject, trial), values, stream))
    columns = list(zip(*trials, strict=True))
    along = next(iter(subject.problem.initial()))
    drawn = {
        HYPERGRADIENT: Curve.over_tasks(values, trials, along=along),
        MEAN: Curve(values, [statistics.fmean(column) for column in columns], along=along, n=options.trials),
    }
    if options.trials > 1:
        deviations = [statistics.stdev(column) for column in columns]
        drawn[DEVIATION] = Curve(values, deviations, along=along, n=options.trials)
    if isinstance(subject.problem, Solved):
        drawn[CLOSED_FORM] = Curve(
            values, [subject.problem.implicit_hypergradient(value) for value in values], along=along
        )
    yield {"curves": drawn}


def _of_trial(subject: Subject, trial: int) -> Problem:
    """Return the problem of a trial, in float64."""
    problem = subject.make(PRECISE)
    seed = subject.seed * subject.kind_options.trials + trial
    return type(problem)(dataclasses.replace(problem.setting, seed=seed))


def _one(subject: Subject, problem: Problem, values: list[float], stream: object) -> list[float]:
    """Return the hypergradients of a trial at each value."""
    initial = problem.initial()
    if (count := tree.count(initial)) != 1:
        raise MetabenchError(
            f"kind 'slice' shows the hypergradient against one meta-parameter, and the problem has {count}"
        )
    found = []
    for value in values:
        meta = {name: leaf.new_full(leaf.shape, value) for name, leaf in initial.items()}
        entered, state, window = next(plain_windows(problem, meta))
        answer = subject.hypergradient(entered, state, meta, window, stream)
        if not tree.all_finite(answer.meta):
            raise Diverged(f"the hypergradient is not finite where the meta-parameter is {value:g}")
        found.append(float(tree.flatten(answer.meta)))
    return found
