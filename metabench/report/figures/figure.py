"""A figure as data: panels with points, the lines that join them, and what failed. Files and the page draw the same panels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from metabench.report.drawing.palette import LabelStyle
from metabench.report.tables.table import records_to_csv


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
    """A curve of a label: y against x in the order in which it is drawn. low, high: its band, empty where it has none. n: seeds."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n: int = 1


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

    omitted: panels that are not drawn, so that a suite of thousands of cells stays readable; the CSV has their data.
    """

    name: str
    kind: str
    title: str
    caption: str
    panels: list[Panel]
    columns: int = 2
    omitted: list[Panel] = field(default_factory=list)
    styles: Mapping[str, LabelStyle] = field(default_factory=dict)

    def keep(self, at_most: int) -> None:
        """Draw at most this many panels, the first ones."""
        self.panels, self.omitted = self.panels[:at_most], self.panels[at_most:] + self.omitted

    @property
    def full_caption(self) -> str:
        """The caption, with the number of panels that are left out."""
        if not self.omitted:
            return self.caption
        every = len(self.panels) + len(self.omitted)
        return f"{self.caption} {len(self.omitted)} of {every} panels are left out here; the CSV has their data."

    @property
    def labels(self) -> list[str]:
        """Labels that any panel shows."""
        return list(dict.fromkeys(label for panel in self.panels for label in panel.labels))

    def to_csv(self) -> str:
        """Return the data of every panel: one row per point, of traces too, and one per failure."""
        records: list[dict[str, Any]] = []
        for panel in self.panels + self.omitted:
            head = {"panel": panel.title, "x_axis": panel.x.name, "y_axis": panel.y.name}
            for point in panel.points:
                values = {
                    name: getattr(point, name)
                    for name in ("label", "x", "x_low", "x_high", "y", "y_low", "y_high", "n", "on_front", "note")
                }
                records.append({**head, **values, "status": "ok", "fit": panel.notes.get(point.label, "")})
            for trace in panel.traces:
                shown = {**head, "label": trace.label, "n": trace.n, "status": "ok"}
                bands = (trace.low or repeat(None), trace.high or repeat(None))
                records += [
                    {**shown, "x": x, "y": y, "y_low": low, "y_high": high}
                    for x, y, low, high in zip(trace.x, trace.y, *bands, strict=False)
                ]
            records += [
                {**head, "label": failure.label, "x": failure.x, "n": failure.runs, "status": failure.status}
                for failure in panel.failures
            ]
            records += [
                {**head, "label": bar.label, "x": bar.group, "y": bar.value, "status": bar.status, "note": bar.part}
                for bar in panel.bars
            ]
        names = [
            "panel",
            "x_axis",
            "y_axis",
            "label",
            "status",
            "x",
            "x_low",
            "x_high",
            "y",
            "y_low",
            "y_high",
            "n",
            "on_front",
            "note",
            "fit",
        ]
        return records_to_csv(records, names)
