"""One panel on axes: points, the lines between them, curves or bars, the front, and strips for what has no place on the axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from metabench.report.drawing.bars import draw_bars
from metabench.report.drawing.inline import gid
from metabench.report.drawing.marks import draw_points
from metabench.report.drawing.reference_lines import draw_rules
from metabench.report.drawing.ticks import set_scale, tick_text
from metabench.report.drawing.traces import draw_traces
from metabench.report.figure import Failure, Panel, Point, ends
from metabench.report.palette import INKS, STATUS_COLOURS, LabelStyle

_MUTED, _FAINT = (INKS[name][0] for name in ("muted", "faint"))
_FAILED_AT_MOST = 10
_FLOOR = 0.2  # of an axis
_ABOVE = 0.03  # of an axis, free above and below the rows of failures
_ROW = 16.0  # points, of failures
_LETTER = 6.2  # points


def draw_panel(axes: Axes, panel: Panel, styles: Mapping[str, LabelStyle]) -> int:
    """Draw one panel on empty axes, whose size is final; return how many marks were pulled apart.

    Its title and the names of its axes are the caller's.
    """
    axes.spines[["top", "right"]].set_visible(False)
    if panel.bars:
        draw_bars(axes, panel, styles)
        return 0
    width, height = (length * 72 / axes.figure.dpi for length in axes.get_window_extent().size)
    placed = [failure for failure in panel.failures if failure.x is not None]
    aside = _asides([failure for failure in panel.failures if failure.x is None])
    rows = len({failure.label for failure in placed})
    floor = -math.inf if panel.floor is None else panel.floor
    low_points = [point for point in panel.points if point.y < floor]
    above = [point for point in panel.points if point.y >= floor]
    along, across = ends(panel.traces)
    xs = along + [
        value for point in panel.points for value in (point.x, point.x_low, point.x_high) if value is not None
    ]
    xs += [failure.x for failure in placed if failure.x is not None]
    ys = across + [value for point in above for value in (point.y, point.y_low, point.y_high) if value is not None]
    side = (24 + _LETTER * max(len(words) for _, words in aside)) / width if aside else 0.0
    top = _ABOVE + _ROW * rows / height if rows else 0.0
    set_scale(axes, panel.x, xs, panel.ticks, "x", 0.0, side)
    set_scale(axes, panel.y, ys or [floor, 1.0], [], "y", _FLOOR if low_points else 0.0, top)
    axes.grid(True, axis="y")
    draw_rules(axes, panel)
    if panel.front:
        _draw_front(axes, panel)
    for line in panel.lines:
        drawn = [point for point in line if point.y >= floor]
        axes.plot(
            [point.x for point in drawn],
            [point.y for point in drawn],
            color=styles[line[0].label].colour,
            linewidth=1.1,
            alpha=0.55,
            zorder=2,
            gid=gid("l", line[0].label),
        )
    pulled = draw_points(axes, panel, above, styles)
    draw_traces(axes, panel, styles)
    if low_points:
        pulled += _draw_floor(axes, panel, low_points, styles)
    if rows:
        _draw_placed(axes, panel, placed, styles, top)
    if aside:
        _draw_aside(axes, aside, styles, side)
    return pulled


def _write(axes: Axes, x: float, y: float, words: str, **options: Any) -> None:
    """Write words at a place given in parts of the axes."""
    axes.text(x, y, words, transform=axes.transAxes, **options)


def _strip(axes: Axes, corner: tuple[float, float], width: float, height: float) -> None:
    axes.add_patch(
        Rectangle(corner, width, height, transform=axes.transAxes, facecolor=_FAINT, linewidth=0, zorder=0.5)
    )


def _draw_hollow(axes: Axes, x: float, y: float, style: LabelStyle, name: str, transform: Any) -> None:
    """Draw the marker of a run without a result."""
    axes.plot(
        [x],
        [y],
        marker=style.marker,
        markersize=6,
        markerfacecolor="none",
        markeredgecolor=style.colour,
        linestyle="none",
        zorder=5,
        gid=name,
        transform=transform,
        clip_on=False,
    )


def _draw_floor(axes: Axes, panel: Panel, points: Sequence[Point], styles: Mapping[str, LabelStyle]) -> int:
    """Draw points below the floor in a strip at the bottom: how far below it they lie is rounding."""
    _strip(axes, (0, 0), 1, _FLOOR - 0.02)
    _write(axes, 0.985, _FLOOR - 0.035, panel.floor_words, color=_MUTED, va="top", ha="right")
    return draw_points(axes, panel, points, styles, 0.06)


def _draw_front(axes: Axes, panel: Panel) -> None:
    """Draw the Pareto front as a staircase from the cheapest point: nothing to the right of a point and below it is worth its cost."""
    xs, ys = [panel.front[0].x], [panel.front[0].y]
    for before, after in pairwise(panel.front):
        xs += [after.x, after.x]
        ys += [before.y, after.y]
    axes.plot(xs, ys, color=_MUTED, linewidth=1.0, linestyle=(0, (4, 2.5)), zorder=1)


def _draw_placed(
    axes: Axes, panel: Panel, failures: Sequence[Failure], styles: Mapping[str, LabelStyle], top: float
) -> None:
    """Draw failures above the data at their x, one row per label."""
    across = blended_transform_factory(axes.transData, axes.transAxes)
    _strip(axes, (0, 1 - top), 1, top)
    rows = dict.fromkeys(failure.label for failure in failures)
    for row, label in enumerate(rows):
        height = 1 - 0.015 - (top - _ABOVE) / len(rows) * (row + 0.5)
        mine = sorted((one.x, one.status, one.runs) for one in failures if one.label == label and one.x is not None)
        before = ""
        for x, status, runs in mine:
            name = gid("h", label, f"{_times(status, runs)} at {tick_text(panel.x.kind, x, [x])}")
            _draw_hollow(axes, x, height, styles[label], name, across)
            if status != before:
                left = axes.transAxes.inverted().transform(axes.transData.transform((x, 1.0)))[0] > 0.3
                axes.annotate(
                    status,
                    (x, height),
                    xycoords=across,
                    xytext=(-6 if left else 6, 0),
                    textcoords="offset points",
                    ha="right" if left else "left",
                    va="center",
                    color=STATUS_COLOURS[status][0],
                )
            before = status


def _asides(failures: Sequence[Failure]) -> list[tuple[Failure | None, str]]:
    """Return the failures to draw in the strip at the side with their words; the last may stand for all that are left out."""
    shown = failures if len(failures) <= _FAILED_AT_MOST else failures[: _FAILED_AT_MOST - 1]
    listed: list[tuple[Failure | None, str]] = [(failure, _times(failure.status, failure.runs)) for failure in shown]
    return listed + ([(None, f"and {len(failures) - len(shown)} more")] if len(shown) < len(failures) else [])


def _draw_aside(
    axes: Axes, listed: Sequence[tuple[Failure | None, str]], styles: Mapping[str, LabelStyle], side: float
) -> None:
    """Draw failures that have no place on either axis in a strip at the right, one below the other."""
    _strip(axes, (1 - side, 0), side, 1)
    left = 1 - side + 0.03
    _write(axes, left - 0.015, 0.985, "no result", color=_MUTED, va="top")
    for row, (failure, words) in enumerate(listed):
        height = 1 - 0.12 - 0.085 * row
        if failure is None:
            _write(axes, left - 0.015, height, words, color=_MUTED, va="center")
            continue
        _draw_hollow(axes, left, height, styles[failure.label], gid("h", failure.label, words), axes.transAxes)
        _write(axes, left + 0.03, height, words, color=STATUS_COLOURS[failure.status][0], va="center")


def _times(status: str, runs: int) -> str:
    return f"{status} ×{runs}" if runs > 1 else status
