"""The hypergradient's error and direction against what they cost."""

from __future__ import annotations

from metabench.report.blocks import Note
from metabench.report.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.figures.parts import (
    MEMORY,
    TIME,
    Settings,
    cost_of,
    failures_aside,
    joined,
    seeds,
)
from metabench.report.results.columns import present, seeds_word
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Row, Setting, Task, slug
from metabench.report.verdicts import cosine_words
from metabench.results.statistics import intervals

ERROR = Axis("error relative to exact hypergradient", "error")
COSINE = Axis(
    "1 − cosine with exact hypergradient (0: same, 1: orthogonal, 2: opposite)",
    "error",
)
EXACT_BELOW = 1e-7

Cosines = dict[tuple[Setting, int, str], str]


def error_figure(suite: Suite, task: Task, settings: Settings) -> Figure | Note:
    """Return the hypergradient's error and 1 − cosine against cost; the options of one method are joined by a line.

    Each setting is shown at the number of inner steps with the most points; settings with the most points come first.
    """
    groups: list[tuple[list[Panel], list[Entry]]] = []
    cosines = _cosines(suite, task)
    for setting, every in settings.items():
        measured = [entry.inner_steps for entry in every if entry.gradient["hypergradient_error"] is not None]
        if not measured:
            continue
        steps = max(set(measured), key=lambda number: (measured.count(number), number))
        entries = [entry for entry in every if entry.inner_steps == steps]
        title = f"{suite.titles[setting]} · K = {steps}"
        panels = [
            _panel(entries, measure, cost, title, cosines) for cost in (TIME, MEMORY) for measure in (ERROR, COSINE)
        ]
        if panels := [panel for panel in panels if len(panel.points) > 1]:
            groups.append((panels, entries))
    if not groups:
        return Note(
            "Hypergradient error against cost: no setting of this problem has it measured for two methods or more."
        )
    groups.sort(key=lambda group: -sum(len(panel.points) for panel in group[0]))
    shown = [entry for _, entries in groups for entry in entries]
    figure = Figure(
        slug("error_cost", task.problem, task.dataset),
        "error_cost",
        "Hypergradient error against cost",
        f"{seeds_word('hypergradient_error').capitalize()} over {seeds(entry.seeds for entry in shown)} at a shared checkpoint. Lines: the "
        "options of one method. Strip: no result.",
        [panel for panels, _ in groups for panel in panels],
    )
    figure.keep(2)
    return figure


def _panel(entries: list[Entry], measure: Axis, cost: Axis, title: str, cosines: Cosines) -> Panel:
    points = [point for entry in entries if (point := _point(entry, measure, cost, cosines)) is not None]
    owners = {entry.label: entry.method for entry in entries}
    name, same = ("Error", "exact") if measure is ERROR else ("1 − cosine", "same direction")
    return Panel(
        f"{name} against {'memory' if cost is MEMORY else 'time'} · {title}",
        cost,
        measure,
        points,
        joined(points, lambda point: owners[point.label]),
        failures=failures_aside(entries),
        rules=[Rule("x", 1.0, "orthogonal"), Rule("x", 2.0, "opposite")] if measure is COSINE else [],
        floor=EXACT_BELOW,
        floor_words=f"below 10⁻⁷: {same} up to rounding",
    )


def _point(entry: Entry, measure: Axis, cost: Axis, cosines: Cosines) -> Point | None:
    value = entry.direction_cosine if measure is COSINE else entry.gradient["hypergradient_error"]
    spent = cost_of(entry, cost)
    if value is None or not spent:
        return None
    note = f"K={entry.inner_steps}"
    if entry.draws:
        note += f", mean draw of {entry.samples} samples" if measure is COSINE else ", single draws, scale included"
    if measure is COSINE and (words := cosines.get((entry.setting, entry.inner_steps, entry.label))):
        note += f", cosine {words}"
    return Point(entry.label, spent, 1.0 - value if measure is COSINE else value, n=entry.ok, note=note)


def _cosines(suite: Suite, task: Task) -> Cosines:
    """Say which cosines are not told apart from 0, by setting, inner steps and label, from their intervals over seeds."""
    rows: dict[tuple[Setting, int, str], list[Row]] = {}
    for row in suite.rows:
        if Task(row["problem"], row["dataset"]) == task:
            rows.setdefault((Setting.of(row), row["inner_steps"], row["label"]), []).append(row)
    samples = {}
    for key, mine in rows.items():
        if values := present(mine, "hypergradient_mean_cosine") or present(mine, "hypergradient_cosine"):
            samples[key] = values
    estimates = zip(samples, intervals(list(samples.values())), strict=True)
    return {key: words for key, estimate in estimates if (words := cosine_words(estimate))}
