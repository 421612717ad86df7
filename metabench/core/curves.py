"""Curves: results that are functions of something, as a loss along training, of one run or over many tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

POINTS = 200
"""The most points that a row keeps of a curve."""
_AFTER = ", after outer step "


def after_step(name: str, step: int) -> str:
    """Return the name of a curve that was seen after an outer step, beside the last one."""
    return f"{name}{_AFTER}{step}"


def name_and_step(name: str) -> tuple[str, int | None]:
    """Return the name and the outer step that `after_step` joined; None where it is the last curve."""
    plain, found, step = name.rpartition(_AFTER)
    return (plain, int(step)) if found and step.isdigit() else (name, None)


@dataclass(frozen=True)
class Curve:
    """Values against x. Over tasks, `values` are medians, and `lower` and `upper` the quartiles.

    Whatever is wrong with a curve is said by `fault`, not raised when it is made: a run is not lost for a curve.

    Attributes:
        x: where the values are, in the order in which they are drawn.
        values: as many as there are x.
        unit: of the values, as 'nat' or '%'; empty where there is none.
        along: what x is, with its unit, as 'inner step' or 'time (s)'.
        lower: lower quartiles over tasks; empty for a single run.
        upper: upper quartiles over tasks; empty for a single run.
        n: the number of tasks.
        log_x: whether x asks for a logarithmic axis.
        log_y: whether the values ask for a logarithmic axis.
    """

    x: Sequence[float]
    values: Sequence[float]
    unit: str = ""
    along: str = "inner step"
    lower: Sequence[float] = ()
    upper: Sequence[float] = ()
    n: int = 1
    log_x: bool = False
    log_y: bool = False

    @classmethod
    def over_tasks(
        cls,
        x: Sequence[float],
        tasks: Sequence[Sequence[float]],
        unit: str = "",
        along: str = "inner step",
        log_x: bool = False,
        log_y: bool = False,
    ) -> Curve:
        """Return the curve of the medians and quartiles over `tasks`, each with a value for every x; at least one task."""
        columns = [sorted(float(value) for value in column) for column in zip(*tasks, strict=True)]
        lower, values, upper = ([_quantile(column, share) for column in columns] for share in (0.25, 0.5, 0.75))
        return cls(x, values, unit, along, lower, upper, len(tasks), log_x, log_y)

    def fault(self) -> str:
        """Return what is wrong with the curve, in words that follow its name; empty if nothing is."""
        lengths = {"values": self.values, "lower": self.lower, "upper": self.upper}
        for name, numbers in lengths.items():
            if len(numbers) != len(self.x) and (name == "values" or len(numbers)):
                return f"has {len(self.x)} x and {len(numbers)} {name}"
        if not len(self.x):
            return "has no points"
        if bool(len(self.lower)) != bool(len(self.upper)):
            return "has one quartile without the other"
        for name, numbers in {"x": self.x, **lengths}.items():
            for place, number in enumerate(numbers):
                if not math.isfinite(number):
                    return f"is not finite: {name}[{place}] is {float(number)}"
        return ""

    def thinned(self, most: int = POINTS) -> Curve:
        """Return the curve with at most `most` of its points (two or more), evenly spread, the first and the last among them."""
        count = len(self.x)
        if count <= most:
            return self
        kept = [round(place * (count - 1) / (most - 1)) for place in range(most)]
        return self._of(lambda numbers: [numbers[at] for at in kept] if len(numbers) else numbers)

    def plain(self) -> Curve:
        """Return the curve with tuples of floats and plain texts, whatever it was made of."""
        curve = self._of(lambda numbers: tuple(map(float, numbers)))
        return replace(
            curve,
            unit=str(self.unit),
            along=str(self.along),
            n=int(self.n),
            log_x=bool(self.log_x),
            log_y=bool(self.log_y),
        )

    def _of(self, change: Callable[[Sequence[float]], Sequence[float]]) -> Curve:
        """Return the curve with its numbers changed."""
        return replace(
            self, x=change(self.x), values=change(self.values), lower=change(self.lower), upper=change(self.upper)
        )


def sound_curves(curves: Mapping[str, Any]) -> tuple[dict[str, Curve], str]:
    """Return the curves that a row can keep, thinned and of plain numbers, and what is wrong with the others; empty if nothing is."""
    faults = {name: fault for name, curve in curves.items() if (fault := curve_fault(curve))}
    sound = {name: curve.thinned().plain() for name, curve in curves.items() if name not in faults}
    return sound, "; ".join(f"no curve '{name}': it {fault}" for name, fault in faults.items())


def curve_fault(curve: Any) -> str:
    """Return `Curve.fault` of what a problem or method gave as a curve, which may be anything."""
    if not isinstance(curve, Curve):
        return f"is a {type(curve).__name__}, not a Curve"
    try:
        return curve.fault() or curve.plain().fault()
    except (TypeError, ValueError, OverflowError) as error:
        return f"has values that are no numbers: {error}"


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted numbers, by linear interpolation; NaN if one of them is."""
    if any(math.isnan(number) for number in ordered):
        return math.nan
    if len(ordered) == 1:
        return ordered[0]
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive")
    return quartiles[round(4 * share) - 1]
