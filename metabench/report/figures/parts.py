"""What all figures share: cost axes, the points that a line joins, failures, and caption text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metabench.report import numbers
from metabench.report.figures.figure import Axis, Failure, Point
from metabench.report.results.entries import Entry, Setting

Settings = dict[Setting, list[Entry]]

MEMORY = Axis("peak memory of one hypergradient", "bytes")
TIME = Axis("time of one hypergradient", "seconds")


def joined(points: list[Point], owner: Callable[[Point], str]) -> list[list[Point]]:
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
    counted: dict[tuple[str, str], int] = {}
    for entry in entries:
        for status, number in entry.failures.items():
            counted[entry.label, status] = counted.get((entry.label, status), 0) + number
    return [Failure(label, status, number) for (label, status), number in counted.items()]


def seeds(entries: list[Entry]) -> str:
    counts = sorted({entry.seeds for entry in entries})
    if len(counts) == 1:
        return f"n = {numbers.plural(counts[0], 'seed')}"
    return f"n = {counts[0]} to {counts[-1]} seeds"


def drawing_methods(entries: list[Entry]) -> tuple[str, str]:
    """Return the methods that draw at random and their samples per seed, in words; empty if there are none."""
    drawn = [entry for entry in entries if entry.draws]
    samples = sorted({entry.samples or 0 for entry in drawn})
    return ", ".join(dict.fromkeys(entry.method for entry in drawn)), " or ".join(map(str, samples))


QUARTILES = "medians over seeds of each seed's quartiles over repeats"


def conditions(entries: list[Entry]) -> str:
    """Say on what and how the entries were measured."""
    hardware = " and ".join(sorted({entry.setting.place.caption for entry in entries}))
    dtypes = ", ".join(sorted({entry.setting.place.dtype for entry in entries}))
    sources = ", ".join(sorted({entry.memory_source for entry in entries if entry.memory_source})) or "not measured"
    return f"{hardware}; {dtypes}; memory from: {sources}."
