"""Panels as SVG for the page: Matplotlib lays them out, this backend writes them with few elements and the page's own classes.

An artist whose gid is made by `gid` becomes one `<path>` of its label's class, with what its row says in `data-r`. All else that looks
alike, the grid and the ticks, becomes one path. Text stays text, in the page's font.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape
from itertools import pairwise
from typing import Any

from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import to_hex
from matplotlib.path import Path

from metabench.report.palette import VARIABLES

_SIMPLER = 4  # tenths of pixels by which a line may be off where it is simplified
_NAMES = {light: name for name, (light, _) in VARIABLES.items()}


def gid(kind: str, label: str, row: str = "") -> str:
    """Return what makes an artist the page's own: its class ('m' mark, 'h' hollow mark, 'l' line, 'b' band, 'r' bar), label and row."""
    return "\t".join((kind, label, row))


def _dashes(gc: GraphicsContextBase) -> str:
    """Return the dashes of a line as a property; empty if it has none."""
    dashes: Any = gc.get_dashes()[1]
    return "" if dashes is None else "stroke-dasharray:" + " ".join(f"{dash:.2g}" for dash in dashes)


class PageRenderer(RendererBase):
    """Writes what Matplotlib draws at 72 dots per inch, so that a point is a pixel.

    name_of: from a label to its class in the page.
    """

    def __init__(self, width: float, height: float, name_of: Callable[[str], str]) -> None:
        super().__init__()
        self._size = width, height
        self._name_of = name_of
        self._groups = [""]
        self._paths: dict[str, list[str]] = {}  # attributes to outlines, in the order of drawing
        self._texts: list[str] = []

    def svg(self, description: str) -> str:
        """Return the drawing as an element."""
        width, height = self._size
        paths = "".join(f'<path {attributes} d="{"".join(d)}"/>' for attributes, d in self._paths.items())
        box = f"0 0 {width:g} {height:g}"
        return f'<svg class="p" viewBox="{box}" role="img" aria-label="{escape(description)}">{paths}{"".join(self._texts)}</svg>'

    def open_group(self, s: str, gid: str | None = None) -> None:
        self._groups.append(gid or self._groups[-1])

    def close_group(self, s: str) -> None:
        self._groups.pop()

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self._size

    def flipy(self) -> bool:
        return False

    def points_to_pixels(self, points: Any) -> Any:
        return points

    def draw_path(self, gc: GraphicsContextBase, path: Path, transform: Any, rgbFace: Any = None) -> None:
        box = None if rgbFace is not None else gc.get_clip_rectangle()
        clip = None if box is None else box.extents
        self._add(gc, rgbFace, self._outline(path, transform, clip))

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Any,
        path: Path,
        trans: Any,
        rgbFace: Any = None,
    ) -> None:
        for vertices, _ in path.iter_segments(trans, simplify=False):
            x, y = vertices[-2:]
            self._add(gc, rgbFace, self._outline(marker_path, marker_trans.frozen().translate(x, y), None))

    def draw_text(
        self,
        gc: GraphicsContextBase,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        align = "left"
        if mtext is not None and angle % 360 == 0:
            # The page's font is wider or narrower than the one that places were found with.
            align = mtext.get_ha()
            x = mtext.get_transform().transform(mtext.get_unitless_position())[0]
        place = f'x="{_number(round(10 * x))}" y="{_number(round(10 * (self._size[1] - y)))}"'
        turned = f' transform="rotate({-angle:.0f} {x:.1f} {self._size[1] - y:.1f})"' if angle % 360 else ""
        name = _NAMES.get(to_hex(gc.get_rgb()), "ink")
        look = {"ink": "", "muted": ' class="k"'}.get(name, f' style="fill:var(--{name})"')
        anchor = {"left": "", "center": ' text-anchor="middle"', "right": ' text-anchor="end"'}[align]
        self._texts.append(f"<text {place}{anchor}{turned}{look}>{escape(s)}</text>")

    def _add(self, gc: GraphicsContextBase, face: Any, outline: str) -> None:
        if outline and (attributes := self._attributes(gc, face)):
            self._paths.setdefault(attributes, []).append(outline)

    def _attributes(self, gc: GraphicsContextBase, face: Any) -> str:
        """Return how a path looks; empty if it is not seen."""
        if group := self._groups[-1]:
            kind, label, row = group.split("\t")
            said = f' data-r="{escape(row)}"' if row else ""
            pale = f' opacity="{gc.get_alpha():g}"' if kind == "r" and gc.get_alpha() != 1 else ""
            dashed = f' style="{_dashes(gc)}"' if kind == "l" and _dashes(gc) else ""
            return f'class="{kind} {self._name_of(label)}"{said}{pale}{dashed}'
        filled = face is not None and (len(face) < 4 or face[3] > 0)
        stroked = gc.get_linewidth() > 0 and gc.get_rgb()[3] > 0
        if not filled and not stroked:
            return ""
        looks = [f"fill:var(--{_variable(face)})"] if filled else []
        if stroked:
            looks.append(f"stroke:var(--{_variable(gc.get_rgb())});stroke-width:{gc.get_linewidth():.3g}")
            looks += filter(None, [_dashes(gc)])
        return f'style="{";".join(looks)}"'

    def _outline(self, path: Path, transform: Any, clip: Any) -> str:
        """Return a path's commands: whole tenths of pixels, relative where that is shorter."""
        height = self._size[1]
        codes: Any = path.codes
        if codes is not None and Path.CURVE4 in codes:  # the only round marker
            box = path.get_extents(transform)
            radius = round(10 * box.width / 2)
            across, r = _number(2 * radius), _number(radius)
            start = _pair(round(10 * (box.x0 + box.x1) / 2) - radius, round(10 * (height - (box.y0 + box.y1) / 2)))
            return f"M{start}a{r} {r} 0 1 0 {across} 0a{r} {r} 0 1 0-{across} 0"
        strokes: list[list[tuple[int, int]]] = []
        closed = ""
        for vertices, code in path.iter_segments(transform, clip=clip, simplify=False, curves=False):
            if code == Path.CLOSEPOLY:
                closed = "z"
                continue
            if code == Path.MOVETO:
                strokes.append([])
            strokes[-1].append((round(10 * vertices[-2]), round(10 * (height - vertices[-1]))))
        return "".join("".join(_commands(_simpler(stroke))) + closed for stroke in strokes)


def _simpler(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return points without those that a line between their neighbours passes by closely (Douglas and Peucker, 1973)."""
    if len(points) < 3:
        return points
    (x, y), (last_x, last_y) = points[0], points[-1]
    length = math.hypot(last_x - x, last_y - y)

    def off(at: int) -> float:
        across, down = points[at][0] - x, points[at][1] - y
        return abs(across * (last_y - y) - down * (last_x - x)) / length if length else math.hypot(across, down)

    farthest = max(range(1, len(points) - 1), key=off)
    if off(farthest) <= _SIMPLER:
        return [points[0], points[-1]]
    return _simpler(points[: farthest + 1])[:-1] + _simpler(points[farthest:])


def _commands(points: list[tuple[int, int]]) -> Iterator[str]:
    yield "M" + _pair(*points[0])
    for before, here in pairwise(points):
        x, y = here[0] - before[0], here[1] - before[1]
        if x or y:
            yield f"v{_number(y)}" if not x else f"h{_number(x)}" if not y else "l" + _pair(x, y)


def _pair(x: int, y: int) -> str:
    return _number(x) + ("" if y < 0 else " ") + _number(y)


def _number(tenths: int) -> str:
    """Write tenths as short as SVG allows: '12', '.5', '-3.1'."""
    whole, part = divmod(abs(tenths), 10)
    return ("-" if tenths < 0 else "") + (f"{whole or ''}.{part}" if part else str(whole))


def _variable(colour: Any) -> str:
    return _NAMES.get(to_hex(colour), "ink")
