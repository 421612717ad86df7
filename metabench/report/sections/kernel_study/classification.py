"""Few-shot classification by wide networks and by kernels: accuracy against training characters, and against width."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, order=True)
class _Kind:
    """What makes accuracies comparable, besides the number of characters: the labels, and the network."""

    network: str
    labels: str

    @classmethod
    def of(cls, row: Row) -> _Kind:
        return cls(row["problem_options"].get("network", ""), row["problem_options"]["labels"])

    @property
    def words(self) -> str:
        labels = {"one_hot": "one-hot labels", "network": "labels by a trained network"}.get(self.labels, f"labels: {self.labels}")
        network = {"mlp": "MLP", "": ""}.get(self.network, f"convolutions ({self.network})")
        return " · ".join(filter(None, (network, labels)))


def rows_of(suite: Suite) -> list[Row]:
    """Return the rows of few-shot classification at a width."""
    return [
        row
        for row in suite.rows
        if row["status"] == "ok" and ACCURACY in (row["metrics"] or {}) and width_of(row["size"]) is not None
    ]


def characters_figure(suite: Suite) -> Figure | None:
    """Return accuracy against the number of training characters, a panel for each width and kind; None with fewer than two numbers."""
    groups: dict[tuple[int, _Kind], list[Row]] = {}
    for row in rows_of(suite):
        groups.setdefault((width_of(row["size"]) or 0, _Kind.of(row)), []).append(row)
    panels = []
    for (width, kind), mine in groups.items():
        if len({_characters(row) for row in mine}) < 2:
            continue
        points = _points(mine, _characters)
        if not width:
            points += [point for name, label in _BESIDE.items() for point in _beside(mine, name, label)]
        title = f"{f'width {width:,}' if width else INFINITE}, {kind.words}"
        panels.append(Panel(title, Axis("training characters", "count"), _AXIS, points, joined(points)))
    return _figure(suite, "kernel_characters", "Accuracy against training characters", panels)


def width_figure(suite: Suite) -> Figure | None:
    """Return accuracy against width, the limit as a line, a panel for each number of characters; None with fewer than two widths."""
    groups: dict[tuple[int, _Kind], list[Row]] = {}
    for row in rows_of(suite):
        groups.setdefault((_characters(row), _Kind.of(row)), []).append(row)
    panels = []
    for (count, kind), mine in sorted(groups.items(), key=lambda item: (-item[0][0], item[0][1])):
        finite = [row for row in mine if row["size"] != INFINITE]
        if len({row["size"] for row in finite}) < 2:
            continue
        points = _points(finite, lambda row: width_of(row["size"]) or 0)
        known = {point.label for point in points}
        limits = _points([row for row in mine if row["size"] == INFINITE], lambda row: 1)
        rules = [Rule("x", point.y, f"{point.label}, infinite") for point in limits if point.label in known]
        title = f"{numbers.plural(count, 'character') if count else 'all characters'}, {kind.words}"
        panels.append(Panel(title, Axis("width", "count"), _AXIS, points, joined(points), rules=rules))
    return _figure(suite, "kernel_accuracy", "Accuracy against width", panels)


def gain_table(suite: Suite) -> Table | None:
    """Return the accuracy of every method and what kernels reach, in the limit, by number of characters; None where no row has it."""
    rows = [row for row in rows_of(suite) if MNK in row["metrics"]]
    if not rows:
        return None
    learned = list(dict.fromkeys(_series(row) for row in rows if row["target"] != "none"))
    table = Table(
        "kernel_gain",
        "Unseen characters, in the limit",
        "Accuracies (%) on test tasks of unseen classes; means over seeds. Gain: of Meta Neural Kernels over their own kernel, both at "
        "infinite times, ± the 95 % interval over tasks, of the seed where it is widest. Methods: after a few inner and outer steps; "
        "no meta-learning: the same inner steps from the start.",
        [
            Column("characters", "training characters"),
            Column("kind", "network and labels", numeric=False),
            *(Column(name, label) for name, label in _BESIDE.items()),
            Column("gain", "gain of the kernel (points)"),
            *(Column(name, name) for name in learned),
        ],
    )
    groups: dict[tuple[_Kind, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((_Kind.of(row), _characters(row)), []).append(row)
    for (kind, count), mine in sorted(groups.items()):
        by_seed = {row["seed"]: row["metrics"] for row in sorted(mine, key=_is_variant, reverse=True)}
        found = list(by_seed.values())
        means = {name: statistics.fmean(one[name] for one in found) for name in (*_BESIDE, MNK_GAIN)}
        widest = max(one[MNK_INTERVAL] for one in found)
        reached = {point.label: point.y for point in _points(mine, lambda row: 0)}
        cells = {
            name: exact_cell(f"{reached[name]:.1f}", reached[name]) if name in reached else Cell(numbers.ABSENT)
            for name in learned
        }
        table.rows.append(
            {"characters": Cell(str(count or "all"), count), "kind": Cell(kind.words)}
            | {name: exact_cell(f"{means[name]:.1f}", means[name]) for name in _BESIDE}
            | {"gain": exact_cell(numbers.with_error(means[MNK_GAIN], widest), means[MNK_GAIN])}
            | cells
        )
        told = {"characters": count, "network": kind.network, "labels": kind.labels}
        table.records.append(told | means | {"gain_interval": widest, "n": len(found)} | {name: reached.get(name) for name in learned})
    return table


def _characters(row: Row) -> int:
    return int(row["problem_options"].get(_CHARACTERS, 0))


def _is_variant(row: Row) -> bool:
    return _series(row) != row["label"]


def _series(row: Row) -> str:
    """Return a method with what its inner run is: MAML's without a word, else that of iMAML or ANIL."""
    options = row["problem_options"]
    words = ["ANIL"] * (options.get("adapts", "all") == "head") + ["iMAML"] * (options.get("proximal", 0) > 0)
    return f"{row['label']} ({', '.join(words)})" if words else str(row["label"])


def _points(rows: Iterable[Row], place: Callable[[Row], float]) -> list[Point]:
    """Return a point for each method and place: the mean over seeds, and the least and the greatest."""
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((_series(row), place(row)), []).append(row["metrics"][ACCURACY])
    return [_point(label, x, values) for (label, x), values in sorted(groups.items(), key=lambda item: item[0][1])]


def _beside(rows: Sequence[Row], name: str, label: str) -> list[Point]:
    """Return what no method of the suite reached, by characters; without meta-learning by MAML's inner run, where there is one."""
    groups: dict[int, dict[int, float]] = {}
    for row in sorted(rows, key=_is_variant, reverse=True):
        if name in row["metrics"]:
            groups.setdefault(_characters(row), {})[row["seed"]] = row["metrics"][name]
    return [_point(label, count, list(values.values())) for count, values in sorted(groups.items())]


def _point(label: str, x: float, values: list[float]) -> Point:
    return Point(label, x, statistics.fmean(values), y_low=min(values), y_high=max(values), n=len(values))


def _figure(suite: Suite, name: str, title: str, panels: list[Panel]) -> Figure | None:
    if not panels:
        return None
    rows = rows_of(suite)
    beside = {
        label: LabelStyle("muted", INKS["muted"][0], SHAPES[len(SHAPES) - 1 - place])
        if place
        else LabelStyle("c10", PALETTE[10][0], SHAPES[-1])
        for place, label in enumerate(_BESIDE.values())
    }
    variants = {_series(row): row["label"] for row in rows if _is_variant(row)}
    shown = {
        name: replace(suite.styles[label], marker=SHAPES[(place + 3) % len(SHAPES)])
        for place, (name, label) in enumerate(variants.items())
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
        styles={**suite.styles, **beside, **shown},
    )
    figure.keep(2)
    return figure
