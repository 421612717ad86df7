"""Options chosen by validation: every point of a grid is trained or taken as it is, and the best ones are judged on test data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core.curves import Curve, sound_curves
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.method import Target
from metabench.core.options import build
from metabench.core.pictures import sound_pictures
from metabench.core.problem import Problem
from metabench.core.types import Tree
from metabench.stages.grids import Grid, Point, read_grid
from metabench.stages.quality import decisive, evaluation
from metabench.stages.subject import Row, Subject
from metabench.training.loop import train
from metabench.training.record import checked
from metabench.training.run import Run

LATE_LOSS = "outer loss"
"""By which the options of problems without numbers of their own are chosen: it is on meta-validation data."""


def chooses(problem: type[Problem]) -> bool:
    """Tell whether a problem has numbers of its own by which options are chosen."""
    return problem.chosen_by is not Problem.chosen_by


@dataclass(frozen=True)
class Outcome:
    """What a point of the grid led to. late_loss: the mean outer loss over the last tenth of the outer steps; None where there is none."""

    point: Point
    problem: Problem
    params: Tree
    meta: Tree
    seconds: float
    late_loss: float | None = None

    def numbers(self) -> Mapping[str, float]:
        """Return the numbers by which the point is judged, on validation data.

        Raises:
            Diverged: a number of the problem is not finite because a run diverged.
            MetabenchError: the problem returned no number, or something else.
        """
        if not chooses(type(self.problem)):
            return {LATE_LOSS: math.inf if self.late_loss is None else self.late_loss}
        found: Mapping[str, Any] = checked(self.problem.chosen_by(self.meta), "chosen_by()")
        if not found or any(isinstance(value, Curve) for value in found.values()):
            raise MetabenchError("chosen_by() returned no number, or a curve: expected numbers by name")
        return found


@dataclass
class _Search:
    """What is known of a grid: by name of a number its loss at each point, infinite where it is not finite, and the best outcome.

    highest: the names of numbers of which higher is better; their losses are their negatives.
    """

    highest: frozenset[str] = frozenset()
    values: dict[str, dict[Point, float]] = dataclasses.field(default_factory=dict)
    best: dict[str, Outcome] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    lost: int = 0

    def add(self, found: Mapping[str, float], outcome: Outcome) -> None:
        """Note the numbers of an outcome."""
        for name, number in found.items():
            value = self.sign(name) * float(number) if math.isfinite(number) else math.inf
            before = min(self.values.setdefault(name, {}).values(), default=math.inf)
            self.values[name][outcome.point] = value
            if value < before:
                self.best[name] = outcome

    def sign(self, name: str) -> int:
        """Return what a number by this name is multiplied with to be a loss."""
        return -1 if name in self.highest else 1


def tuned(subject: Subject) -> Iterator[Row]:
    """Yield the columns of quality of the best point of the grid of `kind_options.over`: test data judge it, and choose nothing.

    The first number of the problem's `chosen_by` decides; where it has none, the outer loss over the last tenth of the outer steps. A
    point that diverges is the worst. Each number of `chosen_by` after the first chooses anew for its own test, the part of its name
    before ': '; what `evaluate` says of that test there is kept with ', tuned for it' after its name.

    Raises:
        Diverged: no point leads to a finite number.
        MetabenchError: `chosen_by` returns no numbers, or `evaluate` none of their names.
    """
    grid = read_grid(subject.kind_options.over)
    search = _searched(subject, grid)
    first = next(iter(search.values), "")
    if first not in search.best:
        raise Diverged(
            f"no point of the grid leads to a finite number: {search.lost} of {len(list(grid.points()))} diverged"
        )
    curves, faults = sound_curves(_curves(grid, search.values[first], search.sign(first)))
    yield {"curves": curves, "message": faults}
    outcomes = {outcome.point: outcome for outcome in search.best.values()}
    tested = {point: evaluation(one.problem, one.params, one.meta) for point, one in outcomes.items()}
    best = search.best[first]
    metrics, drawn, shown = (dict(found) for found in tested[best.point])
    missing = [name for name in search.values if name not in metrics]
    if missing and chooses(type(best.problem)):
        raise MetabenchError(f"chosen_by() returned '{missing[0]}', and evaluate() has no number of that name")
    for name in list(search.best)[1:]:
        test = name.rpartition(": ")[0]
        for kept, found in zip((metrics, drawn, shown), tested[search.best[name].point], strict=True):
            of_test = {
                one: value for one, value in found.items() if one == name or (test and one.startswith(f"{test}: "))
            }
            kept.update({f"{one}, tuned for it": value for one, value in of_test.items()})
    sound, faults = sound_curves(drawn)
    pictures, unseen = sound_pictures(shown)
    edges = [axis for axis, place in zip(grid.axes, best.point, strict=True) if axis.at_edge(place)]
    at_edge = [
        f"the best {axis.name}, {grid.numbers(best.point)[axis.name]:g}, is at the edge of its grid" for axis in edges
    ]
    yield {
        "curves": curves | sound,
        "pictures": pictures,
        "message": "; ".join(filter(None, (*at_edge, faults, unseen))),
    }
    summary = {name: float(value) for name, value in best.problem.summary(best.meta).items()}
    for name, outcome in search.best.items():
        summary |= _chosen(grid, outcome.point, "" if name == first else f", {name}")
    yield {
        "quality": decisive(best.problem, metrics, best.meta),
        "metrics": metrics,
        "meta_summary": summary | {"diverged points": float(search.lost)},
        "train_s": search.seconds,
    }
    subject.keep(best.problem, best.meta)


def _searched(subject: Subject, grid: Grid) -> _Search:
    """Return what validation says of every point."""
    highest = (metric.name for metric in subject.problem.card.metrics if metric.direction == "max")
    search = _Search(frozenset(highest))
    points = list(grid.points())
    own = dataclasses.asdict(subject.problem.setting.options)
    for number, point in enumerate(points):
        subject.tell("grid", number, len(points))
        try:
            outcome = _outcome(subject, _with(subject.problem, grid.options(point, own)), point)
            search.seconds += outcome.seconds
            found = outcome.numbers()
        except Diverged:
            search.lost += 1
            continue
        search.lost += not math.isfinite(next(iter(found.values())))
        search.add(found, outcome)
    return search


def _with(problem: Problem, options: Mapping[str, Any]) -> Problem:
    """Return the problem with other options."""
    kind = type(problem)
    typed = build(kind.card.options, options, f"problem {kind.__name__} in the grid")
    return kind(dataclasses.replace(problem.setting, options=typed))


def _outcome(subject: Subject, problem: Problem, point: Point) -> Outcome:
    """Return what training leads to, or the initial meta-parameters where the method trains none."""
    if subject.method.target is Target.NONE:
        state, meta = problem.initial_state()
        return Outcome(point, problem, state.params, meta, 0.0)
    run = Run.fresh(problem, subject.stream("training"))
    for _ in train(problem, subject.method, subject.options, run, subject.outer_steps):
        pass
    return Outcome(point, problem, *run.outcome(problem), run.seconds, run.late_loss(problem))


def _chosen(grid: Grid, point: Point, of: str) -> dict[str, float]:
    """Return the values of a point, and of each whether it is at the edge of its axis: 1, or 0."""
    numbers = grid.numbers(point)
    return {f"chosen {axis.name}{of}": float(numbers[axis.name]) for axis in grid.axes} | {
        f"{axis.name} at the edge{of}": float(axis.at_edge(place)) for axis, place in zip(grid.axes, point, strict=True)
    }


def _curves(grid: Grid, losses: Mapping[Point, float], sign: int) -> dict[str, Curve]:
    """Return for each axis the number that decides, at the best of the other axes; values of which all points diverged are left out."""
    found = {}
    for place, axis in enumerate(grid.axes):
        best = [
            min((loss for point, loss in losses.items() if point[place] == number), default=math.inf)
            for number in range(len(axis.values))
        ]
        shown = [number for number, value in enumerate(best) if math.isfinite(value)]
        found[f"validation against {axis.name}"] = Curve(
            [float(axis.values[number]) for number in shown],
            [sign * best[number] for number in shown],
            along=axis.name,
            log_x=axis.log,
            log_y=sign > 0 and min(best[number] for number in shown) > 0,
        )
    return found
