"""Predicted against measured memory: whether the numbers that admitted cells were right."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from metabench.report import numbers
from metabench.report.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.figures.parts import MEMORY
from metabench.report.results.columns import combined, seeds_word
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Place, Row

WITHIN = 0.05
"""A prediction that differs from the measurement by more than this share is a miss."""

_PANELS_AT_MOST = 2
_RATIO = Axis("predicted / measured", "ratio", log=False)


@dataclass(frozen=True)
class Comparison:
    """One cell, measured and predicted. Memory is combined over seeds. note: what the prediction leaves out."""

    label: str
    name: str
    device: str
    measured: int
    predicted: int
    note: str = ""

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def within(self) -> bool:
        """Whether the prediction is accurate enough."""
        return abs(self.predicted - self.measured) <= WITHIN * self.measured


def comparisons(suite: Suite) -> list[Comparison]:
    """Return every cell whose memory was both predicted and measured, in the order of the rows."""
    cells: dict[tuple[str, Place], list[Row]] = {}
    for row in suite.rows:
        if row["predicted_bytes"] and row["peak_bytes"]:
            cells.setdefault((row["cell"], Place.of(row)), []).append(row)
    return [
        Comparison(
            rows[0]["label"],
            ", ".join(filter(None, (_place(rows[0]), rows[0]["problem_variant"], f"K={rows[0]['inner_steps']}"))),
            rows[0]["device"],
            combined(rows, "peak_bytes"),
            combined(rows, "predicted_bytes"),
            rows[0]["prediction_note"] or "",
        )
        for rows in cells.values()
    ]


def prediction_sentence(found: list[Comparison]) -> str:
    """Say how many predictions are accurate enough, and which is the worst; empty without any."""
    if not found:
        return ""
    worst = max(found, key=lambda one: abs(one.ratio - 1.0))
    text = (
        f"Memory was predicted before it was measured: {sum(one.within for one in found)} of {numbers.plural(len(found), 'cell')} "
        f"within {100 * WITHIN:.0f} %"
    )
    if worst.ratio == 1.0:
        text += ", each to the byte."
    else:
        text += f"; the worst, {worst.label} on {worst.name}, by {_signed(100 * (worst.ratio - 1.0))} %."
    for note, number in Counter(one.note for one in found if one.note).items():
        text += f" For {numbers.plural(number, 'cell')}, {note}."
    return text


def prediction_figure(suite: Suite) -> Figure | None:
    """Return a panel per device, one point per cell: predicted over measured. None where nothing was predicted."""
    found = comparisons(suite)
    if not found:
        return None
    percent = f"{100 * WITHIN:.0f} %"
    rules = [Rule("x", 1.0, "equal"), Rule("x", 1.0 + WITHIN, f"+{percent}"), Rule("x", 1.0 - WITHIN, f"−{percent}")]
    panels = []
    for device in dict.fromkeys(one.device for one in found):
        mine = [one for one in found if one.device == device]
        share = f"{sum(one.within for one in mine)} of {numbers.plural(len(mine), 'cell')} within {percent}"
        points = [Point(one.label, one.measured, one.ratio, note=one.name) for one in mine]
        panels.append(Panel(f"{device} · {share}", MEMORY, _RATIO, points, rules=rules))
    figure = Figure(
        "predicted_memory",
        "prediction",
        "Memory: predicted over measured",
        f"One point per cell, the {seeds_word('peak_bytes')} over its seeds; predicted by tracing without data. Cells not started, not "
        "measured or not predicted have no point.",
        panels,
    )
    figure.keep(_PANELS_AT_MOST)
    return figure.tell_apart(suite.all_styles)


def _place(row: Row) -> str:
    return f"{row['problem']}/{row['dataset']}/{row['size']}"


def _signed(value: float) -> str:
    sign = "+" if value > 0 else ""
    return sign + (numbers.fixed(value, 1) if abs(value) >= 0.05 else numbers.significant(value, 1))
