"""Hypergradient error against what it costs."""

from __future__ import annotations

from metabench.report.blocks import Note
from metabench.report.figures.figure import Axis, Figure, Panel, Point
from metabench.report.figures.parts import (
    MEMORY,
    TIME,
    Settings,
    conditions,
    drawing_methods,
    failures_aside,
    joined,
    seeds,
)
from metabench.report.results.columns import seeds_word
from metabench.report.results.entries import Entry, Suite, Task, slug

ERROR = Axis("relative error against exact unrolled", "error")
COSINE = Axis("1 − cosine with exact unrolled", "error")
EXACT_BELOW = 1e-7


def error_figure(suite: Suite, task: Task, settings: Settings) -> Figure | Note:
    """Return the hypergradient's error and lack of cosine against cost; the options of one method are joined by a line.

    Each setting is shown at the number of inner steps with the most points; settings with the most points come first.
    """
    groups: list[tuple[int, list[Panel], list[Entry]]] = []
    owners = {entry.label: entry.method for entries in settings.values() for entry in entries}
    for setting, every in settings.items():
        measured = [entry.inner_steps for entry in every if entry.gradient["hypergradient_error"] is not None]
        if not measured:
            continue
        steps = max(set(measured), key=lambda number: (measured.count(number), number))
        entries = [entry for entry in every if entry.inner_steps == steps]
        panels: list[Panel] = []
        for measure, column in ((ERROR, "hypergradient_error"), (COSINE, "hypergradient_cosine")):
            for cost in (MEMORY, TIME):
                points = [point for entry in entries if (point := _error_point(entry, column, cost)) is not None]
                if len(points) < 2:
                    continue
                title = f"{'Error' if measure is ERROR else 'Cosine'} against {'memory' if cost is MEMORY else 'time'}"
                panels.append(
                    Panel(
                        f"{title} · {suite.titles[setting]} · K = {steps}",
                        cost,
                        measure,
                        points,
                        joined(points, lambda point: owners[point.label]),
                        failures=failures_aside(entries),
                        floor=EXACT_BELOW,
                        floor_words=f"below 10⁻⁷: {'exact' if measure is ERROR else 'same direction'} up to rounding",
                    )
                )
        if panels:
            groups.append((sum(len(panel.points) for panel in panels), panels, entries))
    if not groups:
        return Note(
            "Hypergradient error against cost: no setting of this problem has it measured for two methods or more.",
        )
    groups.sort(key=lambda group: -group[0])
    shown = [entry for _, _, entries in groups for entry in entries]
    figure = Figure(
        slug("error_cost", task.problem, task.dataset),
        "error_cost",
        "Hypergradient error against cost",
        "Against the exact hypergradient of the whole unrolled window, float64, at a checkpoint that all methods share; "
        f"lower left is better. {seeds_word('hypergradient_error').capitalize()} over {seeds(shown)}. "
        f"Lines join the options of one method.{_drawing_words(shown)} "
        f"Strip at the right: runs without a result. {conditions(shown)}",
        [panel for _, panels, _ in groups for panel in panels],
    )
    figure.keep(2 * 4)
    return figure


def _drawing_words(entries: list[Entry]) -> str:
    """Explain how methods that draw at random are shown; empty if there are none."""
    methods, samples = drawing_methods(entries)
    if not methods:
        return ""
    return (
        f" {methods} draws at random: its cosine is that of the mean draw, of n = {samples} samples per seed; "
        "its error is that of single draws and includes noise and the scale of its step, which differs by construction."
    )


def _error_point(entry: Entry, column: str, cost: Axis) -> Point | None:
    value = entry.direction_cosine if column == "hypergradient_cosine" else entry.gradient[column]
    spent = entry.peak_bytes if cost is MEMORY else entry.time_median
    if value is None or not spent:
        return None
    return Point(
        entry.label,
        spent,
        1.0 - value if column.endswith("cosine") else value,
        n=entry.ok,
        note=f"K={entry.inner_steps}" + _note_on_draws(entry, column),
    )


def _note_on_draws(entry: Entry, column: str) -> str:
    if not entry.draws:
        return ""
    return f", mean draw of {entry.samples} samples" if column.endswith("cosine") else ", single draws, scale included"
