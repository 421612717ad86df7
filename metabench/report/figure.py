"""A figure as data: panels with points, the lines that join them, and what failed. Files and the page draw the same panels."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields, replace
from itertools import repeat
from typing import Any

from metabench.report.palette import LabelStyle
from metabench.report.tables.table import records_to_csv

PANELS_OF_A_FILE = 24
"""The most panels that a file draws; its CSV has the data of all."""


@dataclass(frozen=True)
class Axis:
    """What an axis says: its name, the kind of its numbers, and whether it is logarithmic.

    kind: 'bytes', 'seconds', 'count', 'error', 'ratio' or 'plain'.
    """

    name: str
    kind: str
    log: bool = True


@dataclass(frozen=True)
class Point:
    """One measurement of a label; low and high are the ends of its interval or its quartiles. note: what else its CSV row should say."""

    label: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    n: int = 1
    note: str = ""
    on_front: bool = False


@dataclass(frozen=True)
class Failure:
    """Runs of a label that have no point. x: their place on the x axis, None if that is unknown too."""

    label: str
    status: str
    runs: int
    x: float | None = None


@dataclass(frozen=True)
class Bar:
    """A bar of a label in a group of bars. part: its part of a stack; parts of one label and group are stacked in order,
    all but the first pale. words: above it. status: of a run without a figure, whose value is 0.
    """

    label: str
    group: str
    value: float
    part: str = ""
    words: str = ""
    status: str = "ok"


@dataclass(frozen=True)
class Trace:
    """A curve of a label: y against x in the order in which it is drawn. low, high: its band, empty where it has none. n: seeds.
    dashed: a limit or a prediction, drawn without markers.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n: int = 1
    dashed: bool = False


@dataclass(frozen=True)
class Rule:
    """A line to compare with. along: 'x' (level, at y = value), 'y' (upright, at x = value) or 'both' (y = value times x)."""

    along: str
    value: float
    words: str = ""


@dataclass
class Panel:
    """One pair of axes. lines: points to join, all of one label's colour. front: the Pareto front, from cheapest to most expensive.

    notes: what the legend adds to a label, such as a fitted exponent. ticks: fixed ticks of the x axis. floor: points whose y is below it
    go into a strip at the bottom, explained by floor_words. bars: instead of points; their groups are along the x axis. traces: curves,
    instead of points.
    """

    title: str
    x: Axis
    y: Axis
    points: list[Point] = field(default_factory=list)
    lines: list[list[Point]] = field(default_factory=list)
    front: list[Point] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    ticks: list[float] = field(default_factory=list)
    floor: float | None = None
    floor_words: str = ""
    bars: list[Bar] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Labels that the panel shows, points, traces, failures and bars."""
        shown: list[Point | Trace | Failure | Bar] = [*self.points, *self.traces, *self.failures, *self.bars]
        return list(dict.fromkeys(one.label for one in shown))


@dataclass
class Figure:
    """Panels under one caption. kind: which question it answers. styles: of labels that the suite does not know.

    panels: those of the page; files draw `whole`. omitted: the others. left_out: labels that no panel shows, for want of a shape of their
    own; unseen: panels with their marks. The CSV has the data of all.
    """

    name: str
    kind: str
    title: str
    caption: str
    panels: list[Panel]
    omitted: list[Panel] = field(default_factory=list)
    styles: Mapping[str, LabelStyle] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    unseen: list[Panel] = field(default_factory=list)

    def keep(self, at_most: int) -> None:
        """Show at most this many panels, the first ones."""
        every = self.panels + self.omitted
        self.panels, self.omitted = every[:at_most], every[at_most:]

    @property
    def whole(self) -> Figure:
        """The figure as files draw it: every panel, up to `PANELS_OF_A_FILE`."""
        made = replace(self)
        made.keep(PANELS_OF_A_FILE)
        return made

    @property
    def columns(self) -> int:
        """Panels in a row of its files."""
        return 3 if len(self.panels) == 3 or len(self.panels) > 6 else 2

    @property
    def full_caption(self) -> str:
        """The caption, with what it leaves out."""
        every = len(self.panels) + len(self.omitted)
        parts = [self.caption]
        if self.omitted and not self.panels:
            parts.append("In the files only.")
        elif self.omitted:
            parts.append(f"{len(self.panels)} of {every} panels; the CSV has all.")
        if self.left_out:
            parts.append(f"{len(self.left_out)} labels: CSV only.")
        return " ".join(parts)

    @property
    def labels(self) -> list[str]:
        """Labels that any panel of the page shows."""
        return list(dict.fromkeys(label for panel in self.panels for label in panel.labels))

    def tell_apart(self, styles: Mapping[str, LabelStyle]) -> Figure:
        """Leave out labels whose shape another label of the figure has, those on a front last of all; return the figure.

        styles: of every label, in their order.
        """
        every = self.panels + self.omitted
        shown = {label for panel in every for label in panel.labels}
        first = {point.label for panel in every for point in panel.front}
        taken: dict[Any, str] = {}
        for label in sorted((label for label in styles if label in shown), key=lambda label: label not in first):
            taken.setdefault(styles[label].marker, label)
        alike = (shown & styles.keys()) - set(taken.values())
        if alike:
            self.left_out = [label for label in styles if label in alike]
            self.unseen = [only(panel, alike) for panel in every]
            number = len(self.panels)
            self.panels = [drawn for panel in every if (drawn := only(panel, shown - alike)).labels]
            self.omitted = []
            self.keep(number)
        return self

    def to_csv(self) -> str:
        """Return the data of every panel: one row per point, of traces too, and one per failure."""
        records: list[dict[str, Any]] = []
        for panel in self.panels + self.omitted + self.unseen:
            rows = [{**vars(point), "status": "ok", "fit": panel.notes.get(point.label, "")} for point in panel.points]
            for trace in panel.traces:
                bands = (trace.low or repeat(None), trace.high or repeat(None))
                rows += [
                    {"label": trace.label, "status": "ok", "x": x, "y": y, "y_low": low, "y_high": high, "n": trace.n}
                    for x, y, low, high in zip(trace.x, trace.y, *bands, strict=False)
                ]
            rows += [{"label": one.label, "status": one.status, "x": one.x, "n": one.runs} for one in panel.failures]
            rows += [
                {"label": bar.label, "status": bar.status, "x": bar.group, "y": bar.value, "note": bar.part}
                for bar in panel.bars
            ]
            head = {"panel": panel.title, "x_axis": panel.x.name, "y_axis": panel.y.name}
            records += [head | row for row in rows]
        values = [field.name for field in fields(Point)]
        return records_to_csv(records, ["panel", "x_axis", "y_axis", *values, "status", "fit"])


def only(panel: Panel, labels: Set[str]) -> Panel:
    """Return a panel with the marks of some labels alone."""
    marks: dict[str, Any] = {
        name: [one for one in getattr(panel, name) if one.label in labels]
        for name in ("points", "front", "failures", "bars", "traces")
    }
    return replace(
        panel,
        **marks,
        lines=[kept for line in panel.lines if len(kept := [one for one in line if one.label in labels]) > 1],
        notes={label: note for label, note in panel.notes.items() if label in labels},
    )


def ends(traces: list[Trace]) -> tuple[list[float], list[float]]:
    """Return all x, and all y with the ends of bands: what the axes must hold."""
    xs = [x for trace in traces for x in trace.x]
    return xs, [y for trace in traces for numbers in (trace.y, trace.low, trace.high) for y in numbers]
