"""Quality against memory and against time, with the Pareto front."""

from __future__ import annotations

from dataclasses import replace

from metabench.report import numbers
from metabench.report.blocks import Note
from metabench.report.figures.figure import Axis, Figure, Panel, Point
from metabench.report.figures.parts import (
    MEMORY,
    QUARTILES,
    TIME,
    Settings,
    conditions,
    failures_aside,
    joined,
    seeds,
)
from metabench.report.results.columns import seeds_word
from metabench.report.results.entries import Entry, Suite, Task, slug
from metabench.results.statistics import pareto_front


def quality_figure(suite: Suite, task: Task, settings: Settings, cost: Axis, kind: str) -> Figure | Note:
    """Return quality against a cost, a panel for each setting, with intervals and the Pareto front."""
    panels: list[Panel] = []
    shown: list[Entry] = []
    for setting, entries in settings.items():
        points = [point for entry in entries if (point := _quality_point(entry, cost)) is not None]
        if not points:
            continue
        rises = next(entry.higher_is_better for entry in entries if entry.quality)
        metric = next(entry.metric for entry in entries if entry.quality)
        front = pareto_front([point.x for point in points], [point.y for point in points], rises)
        points = [replace(point, on_front=index in front) for index, point in enumerate(points)]
        panels.append(
            Panel(
                suite.titles[setting],
                cost,
                Axis(f"{metric} ({'higher' if rises else 'lower'} is better)", "plain", log=False),
                points,
                joined(points, lambda point: point.label),
                [points[index] for index in front],
                failures_aside(entries),
            )
        )
        shown += entries
    if not panels:
        cost_word = "memory" if cost is MEMORY else "time"
        return Note(
            f"Quality against {cost_word}: no setting of this problem has both a test quality and a measured {cost_word}.",
        )
    word = "peak memory" if cost is MEMORY else "time"
    bars = f" Horizontal bars: {QUARTILES}." if cost is TIME else ""
    return Figure(
        slug(kind, task.problem, task.dataset),
        kind,
        f"Test quality against {word}",
        f"Points: {seeds_word('quality')} test quality over {seeds(shown)}; "
        f"vertical bars: {numbers.INTERVAL_WORDS}.{bars} Dashed: the Pareto front, "
        f"which no other method beats on both. Strip at the right: runs without a result. {conditions(shown)}",
        panels,
    )


def _quality_point(entry: Entry, cost: Axis) -> Point | None:
    value = entry.peak_bytes if cost is MEMORY else entry.time_median
    if entry.quality is None or not value:
        return None
    quartiles = (entry.time_q1, entry.time_q3) if cost is TIME else (None, None)
    return Point(
        entry.label,
        value,
        entry.quality.value,
        *quartiles,
        entry.quality.low,
        entry.quality.high,
        entry.quality.n,
        f"K={entry.inner_steps}",
    )
