"""Quality against memory and against time, with the Pareto front."""

from __future__ import annotations

from dataclasses import replace

from metabench.report import numbers
from metabench.report.blocks import Note
from metabench.report.figure import Axis, Figure, Panel, Point
from metabench.report.figures.parts import (
    MEMORY,
    TIME,
    Settings,
    cost_of,
    failures_aside,
    joined,
    quartiles,
    seeds,
)
from metabench.report.results.columns import seeds_word
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Setting, Task, slug
from metabench.results.statistics import pareto_front


def quality_figures(suite: Suite, task: Task, settings: Settings) -> list[Figure | Note]:
    """Return quality against memory and time, two panels for each setting; a note of settings that only have failures.

    The largest model of those that compare two methods or more comes first.
    """
    panels: list[Panel] = []
    shown: list[Entry] = []

    def first(setting: Setting) -> tuple[bool, int]:
        compared = sum(entry.quality is not None for entry in settings[setting])
        return compared < 2, -max((entry.n_params or 0 for entry in settings[setting]), default=0)

    for setting in sorted(settings, key=first):
        found = [panel for cost in (MEMORY, TIME) if (panel := _panel(suite, setting, settings[setting], cost))]
        panels += found
        shown += settings[setting] if found else []
    notes: list[Figure | Note] = []
    for setting, entries in settings.items():
        if setting.trains and all(entry.failed for entry in entries):
            why = numbers.some(f"`{one.label}` {one.status}" for one in failures_aside(entries))
            notes.append(Note(f"{suite.titles[setting]}: no run finished ({why})."))
    if not panels:
        return notes
    figure = Figure(
        slug("quality_cost", task.problem, task.dataset),
        "quality_cost",
        "Test quality against memory and time",
        f"{seeds_word('quality').capitalize()} test quality over {seeds(entry.seeds for entry in shown)} with intervals; time with "
        "quartiles. Dashed: Pareto front of means, which chance may change. Strip: no result.",
        panels,
    )
    figure.keep(2)
    return [figure, *notes]


def _panel(suite: Suite, setting: Setting, entries: list[Entry], cost: Axis) -> Panel | None:
    measured = [entry for entry in entries if entry.quality is not None and cost_of(entry, cost)]
    if not measured:
        return None
    rises, metric = measured[0].higher_is_better, measured[0].metric
    points = []
    for entry in measured:
        quality, place = entry.quality, cost_of(entry, cost)
        assert quality is not None and place is not None
        ends = (*quartiles(entry, cost), quality.low, quality.high)
        points.append(Point(entry.label, place, quality.value, *ends, quality.n, f"K={entry.inner_steps}"))
    front = pareto_front([point.x for point in points], [point.y for point in points], rises)
    points = [replace(point, on_front=index in front) for index, point in enumerate(points)]
    return Panel(
        f"Against {'memory' if cost is MEMORY else 'time'} · {suite.titles[setting]}",
        cost,
        Axis(f"{metric} ({'higher' if rises else 'lower'} is better)", "plain", log=False),
        points,
        joined(points),
        [points[index] for index in front],
        failures_aside(entries),
    )
