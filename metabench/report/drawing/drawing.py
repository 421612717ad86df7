"""Figures drawn with Matplotlib: to PDF and PNG with a legend outside the axes, and panel by panel to SVG for the page.

Both draw panels of one size, 400 by 280 points, which the page shows at a point per pixel: no text is smaller than 10 pixels.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from metabench.report.drawing.inline import PageRenderer
from metabench.report.drawing.panel import draw_panel
from metabench.report.figure import Figure, Panel
from metabench.report.palette import INKS, LabelStyle

INK, MUTED, RULE, FAINT, PAPER = (INKS[name][0] for name in ("ink", "muted", "rule", "faint", "paper"))
WIDTH, HEIGHT = 400, 280  # points
_LEFT, _RIGHT = 62, 24
_TITLE, _LEGEND_WIDTH = 22, 150
_LINE = 14
_LETTERS_ACROSS = 62  # in a line of the panel

_PARAMETERS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "path.simplify": True,
    "text.parse_math": False,  # a '$' in an option is no formula
}


def draw_figure(figure: Figure, styles: Mapping[str, LabelStyle]) -> tuple[bytes, bytes]:
    """Return a figure as (PDF, PNG) bytes; the same figure gives the same bytes."""
    styles = {**styles, **figure.styles}
    own_legends = any(panel.notes for panel in figure.panels)
    labels = [label for label in styles if label in set(figure.labels)]
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    wide = WIDTH + (_LEGEND_WIDTH if own_legends else 0)
    legend_columns = max(1, int(columns * WIDTH / (35 + 6 * max(map(len, labels), default=1))))
    below = 0 if own_legends else 12 + 16 * math.ceil(len(labels) / legend_columns)
    with _context():
        canvas = Canvas(figsize=(columns * wide / 72, (rows * (HEIGHT + _TITLE) + below) / 72))
        canvas.set_facecolor(PAPER)
        for index, panel in enumerate(figure.panels):
            row, column = divmod(index, columns)
            corner = (column * wide, below + (rows - 1 - row) * (HEIGHT + _TITLE))
            axes = _draw(canvas, corner, panel, styles, panel.title)
            if own_legends:
                shown = [label for label in labels if label in set(panel.labels)]
                few = len(shown) <= 10
                axes.legend(
                    handles=[
                        _legend_mark(styles[label], f"{label}\n{panel.notes.get(label, '')}".strip()) for label in shown
                    ],
                    loc="upper left",
                    bbox_to_anchor=(1.03, 1.04),
                    fontsize=8 if few else 7,
                    labelspacing=0.5 if few else 0.3,
                    handletextpad=0.3,
                )
        if not own_legends:
            canvas.legend(
                handles=[_legend_mark(styles[label], label) for label in labels],
                loc="lower center",
                ncols=min(legend_columns, len(labels)),
                fontsize=9.5,
                handletextpad=0.2,
                columnspacing=1.2,
            )
        pdf, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None})
        canvas.savefig(png, format="png", dpi=130)
        return pdf.getvalue(), png.getvalue()


def draw_svg(panel: Panel, styles: Mapping[str, LabelStyle], name_of: Callable[[str], str]) -> str:
    """Return one panel as an SVG element whose colours are the page's variables. name_of: from a label to its class in the page."""
    renderer = PageRenderer(WIDTH, HEIGHT, name_of)
    with _context():
        canvas = Canvas(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        canvas.patch.set_visible(False)
        _draw(canvas, (0, 0), panel, styles)
        canvas.draw(renderer)
    return renderer.svg(f"{panel.title}: {panel.y.name} against {panel.x.name}")


def _draw(
    canvas: Canvas, corner: tuple[float, float], panel: Panel, styles: Mapping[str, LabelStyle], title: str = ""
) -> Axes:
    """Draw a panel with its lower left corner at these points, and return its axes; the names of x and y are lines below and above them.

    The margins are fixed, so that panels line up for any tick labels.
    """
    width, height = (inches * 72 for inches in canvas.get_size_inches())
    x_name, y_name = (textwrap.wrap(name, _LETTERS_ACROSS) for name in (panel.x.name, panel.y.name))
    bottom, top = 26 + _LINE * len(x_name), 8 + _LINE * len(y_name)
    axes = canvas.add_axes(
        (
            (corner[0] + _LEFT) / width,
            (corner[1] + bottom) / height,
            (WIDTH - _LEFT - _RIGHT) / width,
            (HEIGHT - bottom - top) / height,
        )
    )
    for line, words in enumerate(reversed(x_name)):
        _name(axes, words, (0, bottom - 6 - _LINE * line), MUTED)
    for line, words in enumerate(y_name):
        _name(axes, words, (_LEFT - 6, bottom - HEIGHT + _LINE * (line + 1) - 2), MUTED)
    if pulled := draw_panel(axes, panel, styles):
        words = f"{pulled} marks pulled apart" if len(x_name[-1]) < 38 else f"{pulled} pulled apart"
        _name(axes, words, (_LEFT + _RIGHT - WIDTH, bottom - 6), MUTED, ha="right")
    if title:
        title = textwrap.shorten(title, _LETTERS_ACROSS, placeholder=" …")
        _name(axes, title, (_LEFT - 6, bottom - HEIGHT - _TITLE + _LINE), INK)
    return axes


def _name(
    axes: Axes, words: str, offset: tuple[float, float], colour: str, ha: Literal["left", "right"] = "left"
) -> None:
    """Write a line at its offset to the left of and below the axes' lower left corner, in points."""
    place = (-offset[0], -offset[1])
    axes.annotate(
        words, (0, 0), xycoords="axes fraction", xytext=place, textcoords="offset points", color=colour, ha=ha
    )


def _legend_mark(style: LabelStyle, text: str) -> Line2D:
    return Line2D(
        [],
        [],
        marker=style.marker,
        color=style.colour,
        markersize=6.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.5,
        linestyle="none",
        label=text,
    )


def _context() -> Any:
    parameters: Any = {**seaborn.axes_style("ticks"), **_PARAMETERS}
    return matplotlib.rc_context(parameters)
