"""What all figures share: cost axes, the points that a line joins, failures, families of models, and words of captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from metabench.report import numbers
from metabench.report.figure import Axis, Failure, Point
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Setting

Settings = dict[Setting, list[Entry]]

MEMORY = Axis("peak memory of one hypergradient", "bytes")
TIME = Axis("time of one hypergradient", "seconds")
FIT_AT_LEAST = 4
"""The fewest sizes, or numbers of inner steps, through which a line is fitted."""


def joined(points: list[Point], owner: Callable[[Point], str] = lambda point: point.label) -> list[list[Point]]:
    """Return the points of each owner in order of x, where there are two or more."""
    grouped: dict[str, list[Point]] = {}
    for point in points:
        grouped.setdefault(owner(point), []).append(point)
    return [sorted(group, key=lambda point: point.x) for group in grouped.values() if len(group) > 1]


def thin(ticks: list[float], at_most: int) -> list[float]:
    """Keep `at_most` ticks, evenly spread, the last one among them."""
    step = -(-len(ticks) // at_most) or 1
    return ticks[::-1][::step][::-1]


def failures_aside(entries: Iterable[Entry]) -> list[Failure]:
    """Return the runs without a result, counted by label and status; they have no place on an axis."""
    counted: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        for status, number in entry.failures.items():
            counted[entry.label, status] += number
    return [Failure(label, status, number) for (label, status), number in counted.items()]


def family(suite: Suite, problem: str, size: str) -> str:
    """Return the family of models that a size of a problem belongs to, as its card says, else the letters that its name begins with."""
    known = suite.card("problems", problem).get("families") or {}
    letters = re.match(r"[^\W\d]*", size)
    return str(known.get(size) or (letters.group() if letters else ""))


def cost_of(entry: Entry, axis: Axis) -> float | None:
    """Return what an entry costs along MEMORY or TIME."""
    return entry.peak_bytes if axis is MEMORY else entry.time_median


def quartiles(entry: Entry, axis: Axis) -> tuple[float | None, float | None]:
    """Return the quartiles of a time; a memory has none."""
    return (entry.time_q1, entry.time_q3) if axis is TIME else (None, None)


def seeds(counts: Iterable[int]) -> str:
    """Write 'n = 5 seeds', or 'n = 1 to 5 seeds'."""
    found = sorted(set(counts))
    if len(found) == 1:
        return f"n = {numbers.plural(found[0], 'seed')}"
    return f"n = {found[0]} to {found[-1]} seeds"
