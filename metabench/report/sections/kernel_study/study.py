"""What wide networks show of their limit: the runs of each method by width, those of `infinite` beside them, and what follows."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from metabench.core.curves import Curve
from metabench.kernels.names import (
    INFINITE,
    LEAST_LOSS,
    PREDICTED,
    QUERY,
    TEST_OUTPUTS,
    TRAINING_LOSS,
    TRAINING_OUTPUTS,
)
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Row, Task
from metabench.results.statistics import Fit, power_law

OUTPUTS = {"training tasks": TRAINING_OUTPUTS, "test tasks": TEST_OUTPUTS}


@dataclass(frozen=True)
class Run:
    """A row that trained, with its curves."""

    row: Row
    curves: Mapping[str, Curve]


@dataclass
class Widths:
    """The runs of one method in one setting, by width; 0 stands for infinite.

    Attributes:
        label: of the method.
        runs: by width, then by seed.
    """

    label: str
    runs: dict[int, dict[int, Run]] = field(default_factory=dict)

    @property
    def finite(self) -> list[int]:
        """Widths, ascending."""
        return sorted(width for width in self.runs if width)

    @property
    def limit(self) -> dict[int, Run]:
        """The runs of infinite width by seed; none where there are none."""
        return self.runs.get(0, {})

    @property
    def learns(self) -> bool:
        """Tell whether the method has hypergradients."""
        return all(run.row["target"] != "none" for runs in self.runs.values() for run in runs.values())

    def errors(self, width: int, which: str) -> list[float]:
        """Return |F - F of infinite width| / |F of infinite width| of the adapted outputs, of each seed that both have."""
        found = []
        for seed, run in self.runs[width].items():
            limit = self.limit.get(seed)
            if limit is None or which not in run.curves or which not in limit.curves:
                continue
            mine, theirs = run.curves[which].values, limit.curves[which].values
            length = math.hypot(*theirs)
            if len(mine) == len(theirs) and length > 0:
                found.append(math.dist(mine, theirs) / length)
        return found

    def slope(self, which: str) -> Fit | None:
        """Return the exponent with which that error falls with the width: of means over seeds, through four widths or more."""
        points = [(width, statistics.fmean(found)) for width in self.finite if (found := self.errors(width, which))]
        if len(points) < 4 or any(error <= 0 for _, error in points):
            return None
        return power_law(*zip(*points, strict=True))

    @property
    def exact(self) -> bool:
        """Tell whether the method is exact for the unrolled window: what the closed form of MAML predicts is its own."""
        rows = [run.row for runs in self.runs.values() for run in runs.values()]
        return all(row["exact"] and row["target"] == "unrolled" for row in rows)

    def rates(self, width: int) -> dict[int, float]:
        """Return by how much the logarithm of the training loss falls per outer step, over the second half of a run, by seed."""
        found = {seed: _rate(run.curves.get(TRAINING_LOSS)) for seed, run in self.runs.get(width, {}).items()}
        return {seed: rate for seed, rate in found.items() if rate is not None}

    def rate_ratio(self, width: int) -> float | None:
        """Return the rate over that of the limit: the mean over seeds that have both."""
        mine, limit = self.rates(width), self.rates(0)
        found = [mine[seed] / limit[seed] for seed in mine if limit.get(seed)]
        return statistics.fmean(found) if found else None

    def trusted_from(self, which: str, tolerance: float) -> int | None:
        """Return the least width from which on the mean error is within a tolerance at all widths; None if at none."""
        found = None
        for width in reversed(self.finite):
            errors = self.errors(width, which)
            if not errors or statistics.fmean(errors) > tolerance:
                break
            found = width
        return found


@dataclass(frozen=True)
class Regime:
    """Methods in one setting of a task, whose sizes are widths, one of them infinite.

    Attributes:
        task: problem and data set.
        words: the options in which it differs from other regimes.
        inner_steps, outer_steps: of its runs.
        methods: in the suite's order.
    """

    task: Task
    words: str
    inner_steps: int
    outer_steps: int
    methods: tuple[Widths, ...]

    @cached_property
    def widths(self) -> list[int]:
        """All widths, ascending."""
        return sorted({width for one in self.methods for width in one.finite})


def regimes(suite: Suite) -> list[Regime]:
    """Return the regimes in which a method trained at three widths or more, infinite among them."""
    found: dict[tuple[Task, str, int, int], dict[str, Widths]] = {}
    for row, width in _wide(suite):
        curves = suite.curves.get((row["cell"], row["seed"]), {})
        if not any(curve.along == QUERY for curve in curves.values()):
            continue
        key = (Task(row["problem"], row["dataset"]), row["problem_variant"], row["inner_steps"], row["outer_steps"])
        widths = found.setdefault(key, {}).setdefault(row["label"], Widths(row["label"]))
        widths.runs.setdefault(width, {})[row["seed"]] = Run(row, curves)
    made = []
    for (task, words, inner_steps, outer_steps), by_label in found.items():
        methods = tuple(by_label[label] for label in suite.styles if label in by_label and by_label[label].limit)
        if len({width for one in methods for width in one.runs}) >= 3:
            made.append(Regime(task, words, inner_steps, outer_steps, methods))
    return made


def unlimited(suite: Suite) -> dict[tuple[str, str], dict[int, dict[int, Run]]]:
    """Return the runs of settings with three widths or more and a predicted distance, but no limit, by their title and the method."""
    found: dict[tuple[str, str], dict[int, dict[int, Run]]] = {}
    for row, width in _wide(suite):
        if PREDICTED in (row["meta_summary"] or {}):
            title = ", ".join(filter(None, (f"{row['problem']} on {row['dataset']}", row["problem_variant"])))
            run = Run(row, suite.curves.get((row["cell"], row["seed"]), {}))
            found.setdefault((title, row["label"]), {}).setdefault(width, {})[row["seed"]] = run
    return {key: dict(sorted(of.items())) for key, of in found.items() if len(of) >= 3 and 0 not in of}


def values(runs: Mapping[int, Run], column: str, name: str) -> list[float]:
    """Return a number that rows have by name in a column, of each run that has it."""
    return [value for run in runs.values() if (value := (run.row[column] or {}).get(name)) is not None]


def _wide(suite: Suite) -> Iterator[tuple[Row, int]]:
    """Yield the rows that trained to their end at a width, with it; 0 for infinite."""
    for row in suite.rows:
        width = width_of(row["size"])
        if row["status"] == "ok" and row["outer_steps"] and width is not None:
            yield row, width


def width_of(size: str) -> int | None:
    """Return the width that a size names, 0 for infinite; None if it names none."""
    found = re.fullmatch(r"w(\d+)", size)
    return int(found[1]) if found else 0 if size == INFINITE else None


def _rate(curve: Curve | None) -> float | None:
    """Return it over the second half of a curve, but not below where the loss is rounding."""
    if curve is None:
        return None
    points = [(x, y) for x, y in zip(curve.x, curve.values, strict=True) if y > LEAST_LOSS]
    half = [point for point in points if point[0] >= points[-1][0] / 2] if points else []
    if len(half) < 2 or half[-1][0] == half[0][0]:
        return None
    return (math.log(half[0][1]) - math.log(half[-1][1])) / (half[-1][0] - half[0][0])
