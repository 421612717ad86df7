"""Lines to compare with: at a value of an axis, or where one axis is a multiple of the other."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes

from metabench.report.figure import Panel
from metabench.report.palette import INKS

_MUTED = INKS["muted"][0]
_POINTS_AT_MOST = 64  # of a line drawn across axes of which one may be logarithmic


def draw_rules(axes: Axes, panel: Panel) -> None:
    """Draw the rules of a panel that lie within its axes, with their words at the end."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for rule in panel.rules:
        if rule.along == "x" and bottom <= rule.value <= top:
            axes.plot([left, right], [rule.value] * 2, **_LOOKS)
            _say(axes, right, rule.value, rule.words, (-2, 2), "right", "bottom")
        elif rule.along == "y" and left <= rule.value <= right:
            axes.plot([rule.value] * 2, [bottom, top], **_LOOKS)
            _say(axes, rule.value, top, rule.words, (3, -2), "left", "top")
        elif rule.along == "both":
            start, end = max(left, bottom / rule.value), min(right, top / rule.value)
            if start < end:
                xs = [start + (end - start) * place / _POINTS_AT_MOST for place in range(_POINTS_AT_MOST + 1)]
                axes.plot(xs, [rule.value * x for x in xs], **_LOOKS)
                before, last = (axes.transData.transform((x, rule.value * x)) for x in (xs[-2], xs[-1]))
                angle = math.degrees(math.atan2(last[1] - before[1], last[0] - before[0]))
                _say(axes, xs[-2], rule.value * xs[-2], rule.words, (0, 0), "right", "bottom", angle)


_LOOKS: dict[str, Any] = {"color": _MUTED, "linewidth": 0.9, "linestyle": (0, (1.5, 2.0)), "zorder": 1}


def _say(
    axes: Axes, x: float, y: float, words: str, offset: tuple[float, float], across: str, up: str, angle: float = 0.0
) -> None:
    """Write the words of a rule at its end, along it."""
    if words:
        axes.annotate(
            words,
            (x, y),
            xytext=offset,
            textcoords="offset points",
            ha=across,
            va=up,
            rotation=angle,
            rotation_mode="anchor",
            color=_MUTED,
            zorder=1.5,
        )
