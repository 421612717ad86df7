"""One colour per method and one shape per label, everywhere.

Colours are those of Okabe and Ito (Wong 2011, Nature Methods 8:441), told apart with every common colour blindness, darkened where they
would be pale on white, and extended. A method takes its colour and shape from its place in the suite, not from who else is in the figure.
Its options share the colour and have shapes of their own: no figure relies on colour alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D, Bbox

# (on a light ground, on a dark ground)
PALETTE: tuple[tuple[str, str], ...] = (
    ("#222a33", "#e8e8e8"),  # black
    ("#0072b2", "#4da9e0"),  # blue
    ("#d55e00", "#f0823a"),  # vermillion
    ("#009e73", "#2cc79b"),  # bluish green
    ("#b8508c", "#e08abb"),  # reddish purple
    ("#d69200", "#ecb13c"),  # orange
    ("#4aa3d6", "#8cd0f5"),  # sky blue
    ("#6b5b00", "#f0e442"),  # yellow, dark on white
    ("#332288", "#9d8df1"),  # indigo
    ("#882255", "#d9779f"),  # wine
    ("#747c84", "#a9b1b9"),  # grey
    ("#5d8a1f", "#a3cf5f"),  # moss
)
_OUTLINES = ("o", "s", "^", "D", "v", "P", "X", "p", "<", "h", ">", "d")
_WIDE = ("o", "s", "^", "D", "v", "p", "<", ">")  # those in which a hole can be seen
_HOLE = 0.52  # of a shape's size


def _outline(name: str) -> Outline:
    """Return a marker of Matplotlib as a path within -0.5..0.5."""
    marker = MarkerStyle(name)
    path = marker.get_path().transformed(marker.get_transform())
    return path.transformed(Affine2D().scale(0.5 / float(np.abs(path.vertices).max())))


def _hollow(name: str, where: str) -> Outline:
    """Return a marker with a hole, a second outline that runs the other way. where: 'all' of it, its 'right' or 'upper' half."""
    corners = np.asarray(_outline(name).to_polygons()[0])
    if name == "o":
        corners = corners[:: len(corners) // 16]
    if (corners[0] == corners[-1]).all():
        corners = corners[:-1]
    x, y = corners.mean(axis=0)
    hole = (x, y) + _HOLE * (corners - (x, y))
    if where != "all":
        half = Bbox([[x, -1], [1, 1]] if where == "right" else [[-1, y], [1, 1]])
        hole = np.asarray(_ring(hole).clip_to_bbox(half).to_polygons()[0])[:-1]
    return Outline.make_compound_path(_ring(corners), _ring(hole[::-1]))


def _ring(corners: np.ndarray[Any, np.dtype[np.float64]]) -> Outline:
    return Outline(np.vstack([corners, corners[:1]]), closed=True)


SHAPES: tuple[Outline, ...] = (
    *(_outline(name) for name in _OUTLINES),
    *(_hollow(name, where) for where in ("all", "right", "upper") for name in _WIDE),
)
"""The shapes of labels: outlines that are filled, hollow, and half filled."""
REFERENCE = _outline("*")
"""The shape of what is no label, such as a bound."""
MARKERS = (*SHAPES, REFERENCE)

# Grounds and inks: (name in the style sheet, on light, on dark). The light value is what files of figures use.
INKS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1b2127", "#e6e9ec"),
    "muted": ("#5b6570", "#a0a9b2"),
    "rule": ("#d5dade", "#3a424a"),
    "faint": ("#eef1f3", "#22282e"),
    "paper": ("#ffffff", "#15191d"),
}

STATUS_COLOURS: Mapping[str, tuple[str, str]] = {
    "ok": ("#0b7a5b", "#46c9a2"),
    "oom": ("#b3261e", "#ff8a80"),
    "diverged": ("#8a3ea8", "#d7a1ee"),
    "timeout": ("#9a5b00", "#f2b457"),
    "unsupported": ("#5a6570", "#a4aeb8"),
    "error": ("#8f0e4a", "#ff86b3"),
}
VARIABLES: Mapping[str, tuple[str, str]] = {
    **{f"c{place}": pair for place, pair in enumerate(PALETTE)},
    **INKS,
    **{f"status-{name}": pair for name, pair in STATUS_COLOURS.items()},
}
"""Every colour by the name of its variable in the style sheet."""

STATUS_WORDS: Mapping[str, str] = {
    "ok": "finished",
    "oom": "out of memory",
    "diverged": "no longer finite",
    "timeout": "time limit",
    "unsupported": "method does not apply, or the cell does not fit the declared device",
    "error": "exception",
}


@dataclass(frozen=True)
class LabelStyle:
    """How one label is drawn. `name` is the colour's variable in the page's style sheet; `colour` is its value on a light ground."""

    name: str
    colour: str
    marker: Outline


def method_order(suite_methods: Iterable[str], row_methods: Iterable[str]) -> list[str]:
    """Return the methods as the suite orders them; those that only rows know follow, by name."""
    known = list(dict.fromkeys(suite_methods))
    return known + sorted(set(row_methods) - set(known))


def natural_key(text: str) -> tuple[tuple[int, float, str], ...]:
    """Return a sort key that puts 'k=2' before 'k=16'."""
    parts = re.findall(r"\d+\.?\d*(?:[eE][+-]?\d+)?|\D+", text)
    return tuple((0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts)


def assign_styles(methods: list[str], labels: Mapping[str, str]) -> dict[str, LabelStyle]:
    """Return a style for each label, in the order in which labels are listed everywhere.

    methods: in the suite's order. labels: label to its method. Each label has a shape of its own while there are shapes, after which those
    used least come again in other colours.
    """
    used: Counter[tuple[int, int]] = Counter()
    own = {method: _next_style(place % len(PALETTE), used) for place, method in enumerate(methods)}
    styles: dict[str, LabelStyle] = {}
    for place, method in enumerate(methods):
        variants = (label for label, owner in labels.items() if owner == method)
        for label in sorted(variants, key=lambda label: (label != method, natural_key(label))):
            styles[label] = own[method] if label == method else _next_style(place % len(PALETTE), used)
    return styles


def _next_style(colour: int, used: Counter[tuple[int, int]]) -> LabelStyle:
    """Return a colour with the shape that it has least, then that all have least."""
    times = Counter[int]()
    for (_, shape), number in used.items():
        times[shape] += number
    shape = min(range(len(SHAPES)), key=lambda one: (used[colour, one], times[one], one))
    used[colour, shape] += 1
    return LabelStyle(f"c{colour}", PALETTE[colour][0], SHAPES[shape])


def style_variables(ground: int) -> str:
    """Return the colours as CSS declarations: ground 0 is light, 1 is dark."""
    return " ".join(f"--{name}:{pair[ground]};" for name, pair in VARIABLES.items())


def marker_outline(marker: Outline) -> str:
    """Return a marker as an SVG path within -6..6, as Matplotlib draws it."""
    shape = MarkerStyle(marker)
    outline = shape.get_path().transformed(shape.get_transform())
    letters = {
        Outline.MOVETO: "M",
        Outline.LINETO: "L",
        Outline.CURVE3: "Q",
        Outline.CURVE4: "C",
    }
    commands: list[str] = []
    for points, code in outline.iter_segments(curves=True):
        scaled = [f"{10 * value if index % 2 == 0 else -10 * value:.1f}" for index, value in enumerate(points)]
        commands.append("Z" if code == Outline.CLOSEPOLY else letters[code] + " ".join(scaled))
    return "".join(commands)
