"""Curves of a panel: a line for each, with a band where there is one and a few markers, so that lines of one colour can be told apart."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from metabench.report.drawing.inline import gid
from metabench.report.drawing.marks import value
from metabench.report.figure import Panel, Trace
from metabench.report.palette import INKS, LabelStyle

_PAPER = INKS["paper"][0]
_DRAWN = 100  # points of a line: two or three for each millimetre
_MARKERS = 5


def draw_traces(axes: Axes, panel: Panel, styles: Mapping[str, LabelStyle]) -> None:
    """Draw the traces of a panel on axes whose scales are set; the CSV has all of their points, the drawing at most a hundred."""
    labels = panel.labels
    for trace in panel.traces:
        style = styles[trace.label]
        row = _row(panel, trace)
        kept = _spread(len(trace.x), _DRAWN)
        xs, ys = [trace.x[at] for at in kept], [trace.y[at] for at in kept]
        if trace.low:
            low, high = [trace.low[at] for at in kept], [trace.high[at] for at in kept]
            axes.fill_between(
                xs, low, high, color=style.colour, alpha=0.13, linewidth=0, zorder=1.5, gid=gid("b", trace.label)
            )
        # Each label has its markers at places of its own: where lines meet, all of them can be seen.
        step = max(1, len(kept) // _MARKERS)
        first = step * labels.index(trace.label) // len(labels)
        line = "--" if trace.dashed else "-"
        name = gid("l", trace.label, row)
        axes.plot(xs, ys, color=style.colour, linewidth=1.1, alpha=0.85, linestyle=line, zorder=3, gid=name)
        if trace.dashed:
            continue
        axes.plot(
            xs[first::step],
            ys[first::step],
            color=style.colour,
            linestyle="none",
            marker=style.marker,
            markersize=6,
            markeredgecolor=_PAPER,
            markeredgewidth=0.6,
            zorder=3,
            gid=gid("m", trace.label, row),
        )


def _row(panel: Panel, trace: Trace) -> str:
    """Say where a curve begins and ends."""
    first, last = (f"{value(panel.y, trace.y[at])} at {value(panel.x, trace.x[at])}" for at in (0, -1))
    return f"from {first} to {last}" + (f"; n = {trace.n}" if trace.n > 1 else "")


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the first `count` integers, evenly spread, both ends among them."""
    return list(range(count)) if count <= most else [round(place * (count - 1) / (most - 1)) for place in range(most)]
