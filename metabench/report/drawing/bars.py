"""Bars in groups, stacked where they have parts."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from metabench.report.drawing.inline import gid
from metabench.report.drawing.marks import value
from metabench.report.drawing.ticks import linear_ticks, tick_text
from metabench.report.figure import Bar, Panel
from metabench.report.palette import INKS, STATUS_COLOURS, LabelStyle

_INK, _MUTED = (INKS[name][0] for name in ("ink", "muted"))
_FILLED = 0.82  # of a group's width
_PALE = 0.38
_HEADROOM = 1.14  # for the words above the highest bar
_LETTERS = 24  # of words above all bars, beyond which they are set upright


def draw_bars(axes: Axes, panel: Panel, styles: Mapping[str, LabelStyle]) -> None:
    """Draw the bars of a panel: a place along the x axis for each group, a bar for each label in it, from zero."""
    groups = list(dict.fromkeys(bar.group for bar in panel.bars))
    labels = [label for label in styles if label in {bar.label for bar in panel.bars}]
    width = _FILLED / len(labels)
    stacks: dict[tuple[str, str], list[Bar]] = {}
    for bar in panel.bars:
        stacks.setdefault((bar.group, bar.label), []).append(bar)
    highest = max(sum(bar.value for bar in stack) for stack in stacks.values()) or 1.0
    upright = sum(len(bar.words) for bar in panel.bars) > _LETTERS and any(len(bar.words) > 4 for bar in panel.bars)
    for (group, label), stack in stacks.items():
        x = groups.index(group) + width * (labels.index(label) - (len(labels) - 1) / 2)
        below = 0.0
        for place, bar in enumerate(stack):
            axes.bar(
                x,
                bar.value,
                width * 0.92,
                bottom=below,
                color=styles[label].colour,
                alpha=_PALE if place else 1.0,
                zorder=2,
                gid=gid("r", label, _row(panel, bar)),
            )
            below += bar.value
        _say(axes, x, below, stack, upright)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, highest * _HEADROOM)
    ticks = linear_ticks(panel.y.kind, 0.0, highest * _HEADROOM)
    axes.yaxis.set_ticks(ticks, [tick_text(panel.y.kind, tick, ticks) if tick else "0" for tick in ticks])
    axes.xaxis.set_ticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, axis="y", zorder=0)
    axes.set_axisbelow(True)


def _row(panel: Panel, bar: Bar) -> str:
    """Say what a bar's row says."""
    measured = value(panel.y, bar.value) if bar.status == "ok" else bar.status
    return "; ".join(filter(None, (f"{measured}, {bar.group}", bar.part, bar.words)))


def _say(axes: Axes, x: float, y: float, stack: list[Bar], upright: bool) -> None:
    """Label a stack: its words, or the status of a run without a value."""
    failed = next((bar.status for bar in stack if bar.status != "ok"), "")
    words = failed or next((bar.words for bar in stack if bar.words), "")
    if words:
        axes.annotate(
            words,
            (x, y),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90 if upright or failed else 0,
            color=STATUS_COLOURS[failed][0] if failed else _INK,
            zorder=5,
        )
