"""Few-shot classification by wide networks and by kernels: accuracy against training characters, and against width."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from metabench.kernels.names import ACCURACY, EMBEDDING, INFINITE, MNK, MNK_GAIN, MNK_INTERVAL, PIXELS, WITHOUT
from metabench.report import numbers
from metabench.report.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.figures.parts import joined, seeds
from metabench.report.palette import INKS, PALETTE, SHAPES, LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Row
from metabench.report.sections.kernel_study.study import width_of
from metabench.report.tables.table import Cell, Column, Table, exact_cell

_CHARACTERS = "characters"
_AXIS = Axis("accuracy on unseen classes (%)", "plain", log=False)
_BESIDE = {
    PIXELS: "nearest by pixels",
    EMBEDDING: "nearest by embedding",
    WITHOUT: "no meta-learning",
    MNK: "Meta Neural Kernel",
}
"""Metrics of the same test tasks that are no method of the suite, and their names in figures."""


def rows_of(suite: Suite) -> list[Row]:
    """Return the rows of few-shot classification at a width."""
    return [
        row
        for row in suite.rows
        if row["status"] == "ok" and ACCURACY in (row["metrics"] or {}) and width_of(row["size"]) is not None
    ]


def characters_figure(suite: Suite) -> Figure | None:
    """Return accuracy against the number of training characters, a panel for each width; None with fewer than two numbers."""
    rows = rows_of(suite)
    panels = []
    for size in sorted({row["size"] for row in rows}, key=lambda size: width_of(size) or 1 << 30):
        mine = [row for row in rows if row["size"] == size]
        if len({_characters(row) for row in mine}) < 2:
            continue
        points = _points(mine, _characters)
        if size == INFINITE:
            points += [point for name, label in _BESIDE.items() for point in _beside(mine, name, label)]
        panels.append(Panel(size, Axis("training characters", "count"), _AXIS, points, joined(points)))
    return _figure(suite, rows, "kernel_characters", "Accuracy against training characters", panels[::-1])


def width_figure(suite: Suite) -> Figure | None:
    """Return accuracy against width, the limit as a line, a panel for each number of characters; None with fewer than two widths."""
    rows = rows_of(suite)
    panels = []
    for count in sorted({_characters(row) for row in rows}, reverse=True):
        mine = [row for row in rows if _characters(row) == count]
        finite = [row for row in mine if row["size"] != INFINITE]
        if len({row["size"] for row in finite}) < 2:
            continue
        points = _points(finite, lambda row: width_of(row["size"]) or 0)
        limits = _points([row for row in mine if row["size"] == INFINITE], lambda row: 1)
        rules = [Rule("x", point.y, f"{point.label}, infinite") for point in limits]
        title = numbers.plural(count, "character") if count else "all characters"
        panels.append(Panel(title, Axis("width", "count"), _AXIS, points, joined(points), rules=rules))
    return _figure(suite, rows, "kernel_accuracy", "Accuracy against width", panels)


def gain_table(suite: Suite) -> Table | None:
    """Return what meta-learning adds to kernel regression by number of characters; None where no row has it."""
    rows = [row for row in rows_of(suite) if MNK in row["metrics"]]
    if not rows:
        return None
    table = Table(
        "kernel_gain",
        "Kernel regression with and without meta-learning",
        "Test tasks of unseen classes; means over seeds. Gain: of Meta Neural Kernels over their own kernel at infinite times, ± the 95 % "
        "interval over tasks, of the seed where it is widest.",
        [
            Column("characters", "training characters"),
            Column("labels", "labels", numeric=False),
            *(Column(name, label) for name, label in _BESIDE.items()),
            Column("gain", "gain of the kernel (points)"),
        ],
    )
    groups: dict[tuple[int, str], dict[int, Row]] = {}
    for row in rows:
        groups.setdefault((_characters(row), row["problem_options"]["labels"]), {}).setdefault(row["seed"], row)
    for (count, labels), by_seed in sorted(groups.items()):
        found = [row["metrics"] for row in by_seed.values()]
        means = {name: statistics.fmean(one[name] for one in found) for name in (*_BESIDE, MNK_GAIN)}
        widest = max(one[MNK_INTERVAL] for one in found)
        table.rows.append(
            {"characters": Cell(str(count or "all"), count), "labels": Cell(labels)}
            | {name: exact_cell(f"{means[name]:.1f}", means[name]) for name in _BESIDE}
            | {"gain": exact_cell(numbers.with_error(means[MNK_GAIN], widest), means[MNK_GAIN])}
        )
        table.records.append({"characters": count, "labels": labels, **means, "gain_interval": widest, "n": len(found)})
    return table


def _characters(row: Row) -> int:
    return int(row["problem_options"].get(_CHARACTERS, 0))


def _points(rows: Iterable[Row], place: Callable[[Row], float]) -> list[Point]:
    """Return a point for each label and place: the mean over seeds, and the least and the greatest."""
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["label"], place(row)), []).append(row["metrics"][ACCURACY])
    return [_point(label, x, values) for (label, x), values in sorted(groups.items(), key=lambda item: item[0][1])]


def _beside(rows: Sequence[Row], name: str, label: str) -> list[Point]:
    groups: dict[int, dict[int, float]] = {}
    for row in rows:
        if name in row["metrics"]:
            groups.setdefault(_characters(row), {})[row["seed"]] = row["metrics"][name]
    return [_point(label, count, list(values.values())) for count, values in sorted(groups.items())]


def _point(label: str, x: float, values: list[float]) -> Point:
    return Point(label, x, statistics.fmean(values), y_low=min(values), y_high=max(values), n=len(values))


def _figure(suite: Suite, rows: Sequence[Row], name: str, title: str, panels: list[Panel]) -> Figure | None:
    if not panels:
        return None
    beside = {
        label: LabelStyle("muted", INKS["muted"][0], SHAPES[len(SHAPES) - 1 - place])
        if place
        else LabelStyle("c10", PALETTE[10][0], SHAPES[-1])
        for place, label in enumerate(_BESIDE.values())
    }
    counts = [point.n for panel in panels for point in panel.points]
    tests = {row["problem_options"]["test_tasks"] for row in rows}
    figure = Figure(
        name,
        "kernel",
        title,
        f"Means over {seeds(counts)}, least to greatest, each over {', '.join(map(str, sorted(tests)))} tasks of unseen classes, after the "
        "last outer step and never the best. The paper's accuracies of MAML and iMAML are the best of several evaluations on the test.",
        panels,
        styles={**suite.styles, **beside},
    )
    figure.keep(2)
    return figure
