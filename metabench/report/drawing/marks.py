"""The marks of a panel: a marker and its interval for each point, pulled apart where markers of different labels coincide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from metabench.report import numbers
from metabench.report.drawing.inline import gid
from metabench.report.figure import Axis, Panel, Point
from metabench.report.palette import INKS, LabelStyle

_PAPER = INKS["paper"][0]
COINCIDENT = 5.0  # points between two markers, below which one hides the other
_APART = 9.0  # points between two that were pulled apart
_NEAR = 60.0  # points between two that may meet when they are pulled apart
_ROUNDS = 100
_GOLDEN = math.pi * (3 - math.sqrt(5))


def draw_points(
    axes: Axes, panel: Panel, points: Sequence[Point], styles: Mapping[str, LabelStyle], level: float | None = None
) -> int:
    """Draw points on axes whose limits are set; return how many are away from their true place, which a thin line leads to.

    level: draw all at this part of the axes' height, instead of at their y.
    """
    scale = 72 / axes.figure.dpi  # from pixels to points
    to_pixels = axes.transData if level is None else blended_transform_factory(axes.transData, axes.transAxes)
    ys = [point.y if level is None else level for point in points]
    true = [_pair(to_pixels.transform((point.x, y)) * scale) for point, y in zip(points, ys, strict=True)]
    shown = pulled_apart(true, [point.label for point in points])
    back = to_pixels.inverted()
    for point, y, place, place_shown in zip(points, ys, true, shown, strict=True):
        style = styles[point.label]
        # Apart from the marker: its stroke would fill the hole of a hollow shape.
        line: dict[str, Any] = {"color": style.colour, "linewidth": 1.1, "alpha": 0.6, "zorder": 3}
        line |= {"transform": to_pixels, "gid": gid("l", point.label)}
        if level is None and point.y_low is not None and point.y_high is not None:
            axes.plot([point.x] * 2, [point.y_low, point.y_high], **line)
        if point.x_low is not None and point.x_high is not None:
            axes.plot([point.x_low, point.x_high], [y] * 2, **line)
        x = point.x
        if place_shown != place:
            moved = back.transform((place_shown[0] / scale, place_shown[1] / scale))
            axes.plot([x, moved[0]], [y, moved[1]], **line | {"linewidth": 0.6})
            x, y = moved
        axes.plot(
            [x],
            [y],
            color=style.colour,
            linestyle="none",
            marker=style.marker,
            markersize=7.5,
            markeredgecolor=_PAPER,
            markeredgewidth=0.7,
            zorder=4,
            transform=to_pixels,
            gid=gid("m", point.label, point_row(panel, point)),
        )
    return sum(one != other for one, other in zip(true, shown, strict=True))


def _pair(place: Any) -> tuple[float, float]:
    return float(place[0]), float(place[1])


def pulled_apart(places: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[tuple[float, float]]:
    """Return the places with those of different labels that coincide moved from each other, as far as needed and no further.

    places: in points. Two marks of one label stay where they are: they look alike. The same places give the same result.
    """
    found = list(places)
    pairs = [
        (one, other)
        for other in range(len(places))
        for one in range(other)
        if labels[one] != labels[other] and math.dist(places[one], places[other]) < _NEAR
    ]
    loose = {mark for pair in pairs if math.dist(places[pair[0]], places[pair[1]]) < COINCIDENT for mark in pair}
    for _ in range(_ROUNDS):
        moved = False
        for one, other in pairs:
            gap = _APART - math.dist(found[one], found[other])
            if gap < 0.1 or not loose & {one, other}:
                continue
            moved = True
            (x, y), (to_x, to_y) = found[one], found[other]
            # Marks at the very same place leave it in as many directions as there are marks.
            angle = math.atan2(to_y - y, to_x - x) if gap < _APART - 0.01 else _GOLDEN * other
            share = gap / len(loose & {one, other})
            for mark, way in ((one, -share), (other, share)):
                if mark in loose:
                    found[mark] = (found[mark][0] + way * math.cos(angle), found[mark][1] + way * math.sin(angle))
        if not moved:
            break
    return found


def value(axis: Axis, number: float) -> str:
    """Write a number in the unit of its axis."""
    writers = {"bytes": numbers.memory, "seconds": numbers.seconds, "ratio": numbers.ratio}
    return writers[axis.kind](number) if axis.kind in writers else numbers.significant(number, 4)


def point_row(panel: Panel, point: Point) -> str:
    """Say what a point's row says: its values with their intervals, the number of values, and its note."""
    y, x = (
        value(axis, middle)
        + (f" [{value(axis, low)}, {value(axis, high)}]" if low is not None and high is not None else "")
        for axis, middle, low, high in (
            (panel.y, point.y, point.y_low, point.y_high),
            (panel.x, point.x, point.x_low, point.x_high),
        )
    )
    return "; ".join(filter(None, (f"{y} at {x}", f"n = {point.n}" if point.n > 1 else "", point.note)))
