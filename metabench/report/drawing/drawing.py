"""Panels drawn with Matplotlib: to PDF and PNG with a legend outside the axes, and to SVG that follows the page's ground."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from metabench.report.drawing.bars import draw_bars
from metabench.report.drawing.palette import INKS, STATUS_COLOURS, LabelStyle, colour_variables
from metabench.report.drawing.reference_lines import draw_rules
from metabench.report.drawing.ticks import set_scale
from metabench.report.drawing.traces import draw_traces, ends
from metabench.report.figures.figure import Failure, Figure, Panel, Point

INK, MUTED, RULE, FAINT, PAPER = (INKS[name][0] for name in ("ink", "muted", "rule", "faint", "paper"))
PANEL_WIDTH, PANEL_HEIGHT = 4.5, 3.1  # inches
_MARGINS = (0.82, 0.5, 0.14, 0.08)  # inches: left, bottom, right, top
_TITLE, _LEGEND_WIDTH = 0.26, 1.75
_FAILED_AT_MOST = 10
_LETTERS_ACROSS = 54  # in a panel's title
_LETTERS_UPRIGHT = 38  # in a line of the y axis's name: what the height of the axes holds
_SIDE, _ROW, _FLOOR = 0.26, 0.075, 0.2  # parts of an axis

_PARAMETERS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "path.simplify": False,
    "text.parse_math": False,  # a '$' in an option is no formula
}


def draw_figure(figure: Figure, styles: Mapping[str, LabelStyle]) -> tuple[bytes, bytes]:
    """Return a figure as (PDF, PNG) bytes; the same figure gives the same bytes."""
    styles = {**styles, **figure.styles}
    own_legends = any(panel.notes for panel in figure.panels)
    labels = [label for label in styles if label in set(figure.labels)]
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    beside = _LEGEND_WIDTH if own_legends else 0.0
    legend_columns = max(1, int(columns * PANEL_WIDTH / (0.45 + 0.075 * max(map(len, labels), default=1))))
    below = 0.0 if own_legends else 0.15 + 0.19 * math.ceil(len(labels) / legend_columns)
    with _context():
        canvas = Canvas(figsize=(columns * (PANEL_WIDTH + beside), rows * (PANEL_HEIGHT + _TITLE) + below))
        canvas.set_facecolor(PAPER)
        for index, panel in enumerate(figure.panels):
            row, column = divmod(index, columns)
            corner = (column * (PANEL_WIDTH + beside), below + (rows - 1 - row) * (PANEL_HEIGHT + _TITLE))
            axes = _add_axes(canvas, corner)
            draw_panel(axes, panel, styles)
            if own_legends:
                shown = [label for label in styles if label in set(panel.labels)]
                axes.legend(
                    handles=[
                        _legend_mark(styles[label], f"{label}\n{panel.notes.get(label, '')}".strip()) for label in shown
                    ],
                    loc="upper left",
                    bbox_to_anchor=(1.01, 1.04),
                    fontsize=6.5 if len(shown) <= 10 else 5.5,
                    labelspacing=0.5 if len(shown) <= 10 else 0.3,
                    handletextpad=0.3,
                )
        if not own_legends:
            handles = [_legend_mark(styles[label], label) for label in labels]
            canvas.legend(
                handles=handles,
                loc="lower center",
                ncols=min(legend_columns, len(labels)),
                fontsize=8,
                handletextpad=0.2,
                columnspacing=1.2,
            )
        pdf, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None})
        canvas.savefig(png, format="png", dpi=160)
        return pdf.getvalue(), png.getvalue()


def draw_svg(panel: Panel, styles: Mapping[str, LabelStyle], name: str) -> str:
    """Return one panel as inline SVG whose colours are the page's variables. name: makes its inner references its own."""
    with _context({"svg.hashsalt": name}):
        canvas = Canvas(figsize=(PANEL_WIDTH, PANEL_HEIGHT))
        canvas.patch.set_visible(False)
        draw_panel(_add_axes(canvas, (0.0, 0.0)), panel, styles, title=False)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline_svg(text.getvalue(), f"{panel.title}: {panel.y.name} against {panel.x.name}")


def _add_axes(canvas: Canvas, corner: tuple[float, float]) -> Axes:
    """Return axes with fixed margins in the panel whose lower left corner (inches) is given: panels line up for any tick labels."""
    width, height = canvas.get_size_inches()
    left, bottom, right, top = _MARGINS
    return canvas.add_axes(
        (
            (corner[0] + left) / width,
            (corner[1] + bottom) / height,
            (PANEL_WIDTH - left - right) / width,
            (PANEL_HEIGHT - bottom - top) / height,
        )
    )


def inline_svg(document: str, description: str) -> str:
    """Return an SVG document as an element for a page: no header, no fixed size, no fonts, colours as variables of the style sheet."""
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<style type=\"text/css\">.*?</style>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    title = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    variables = colour_variables()
    rest = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda match: f"var(--{variables[match.group()]})" if match.group() in variables else match.group(),
        rest,
    )
    rest = re.sub(r"font: (?:bold |\d00 )?([\d.]+)px [^;\"]*", r"font-size: \1px", rest)
    rest = re.sub(r' transform="rotate\(-0 [^"]*"', "", rest)
    rest = re.sub(
        r' id="(?:axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|figure|legend|\w+Collection)_?\d*"',
        "",
        rest,
    )
    rest = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match.group()), rest)
    rest = re.sub(r"font-family: [^;\"]*;? ?", "", rest).replace("xlink:href", "href")
    rest = re.sub(r"\n\s*", "\n", rest)
    return f'<svg viewBox="{box.group(1) if box else "0 0 324 230"}" role="img" aria-label="{title}">{rest.strip()}'


def draw_panel(axes: Axes, panel: Panel, styles: Mapping[str, LabelStyle], title: bool = True) -> None:
    """Draw one panel: points with their intervals, the lines between them, the front, and a strip for what failed."""
    if title:
        # A long title is set smaller, or it would run out of the figure.
        axes.set_title(panel.title, fontsize=max(5.5, 8.5 * min(1.0, _LETTERS_ACROSS / max(1, len(panel.title)))))
    axes.set_xlabel(panel.x.name)
    axes.set_ylabel(_upright(panel.y.name))
    seaborn.despine(ax=axes)
    if panel.bars:
        draw_bars(axes, panel, styles)
        return
    placed = [failure for failure in panel.failures if failure.x is not None]
    aside = [failure for failure in panel.failures if failure.x is None]
    rows = list(dict.fromkeys(failure.label for failure in placed))
    xs = [value for point in panel.points for value in (point.x, point.x_low, point.x_high) if value is not None]
    xs += [failure.x for failure in placed if failure.x is not None]
    floor = -math.inf if panel.floor is None else panel.floor
    low_points = [point for point in panel.points if point.y < floor]
    along, across = ends(panel.traces)
    xs += along
    ys = across + [
        value
        for point in panel.points
        if point.y >= floor
        for value in (point.y, point.y_low, point.y_high)
        if value is not None
    ]
    bottom = _FLOOR if low_points else 0.0
    side = _SIDE if aside else 0.0
    top = 0.03 + _ROW * len(rows) if rows else 0.0
    set_scale(axes, panel.x, xs, panel.ticks, "x", 0.0, side)
    set_scale(axes, panel.y, ys or [floor, 1.0], [], "y", bottom, top)
    axes.grid(True, axis="y")
    draw_rules(axes, panel)
    if panel.front:
        _draw_front(axes, panel)
    for line in panel.lines:
        style = styles[line[0].label]
        drawn = [point for point in line if point.y >= floor]
        axes.plot(
            [point.x for point in drawn],
            [point.y for point in drawn],
            color=style.colour,
            linewidth=1.1,
            alpha=0.55,
            zorder=2,
        )
    _draw_points(axes, [point for point in panel.points if point.y >= floor], styles)
    draw_traces(axes, panel, styles)
    if low_points:
        _draw_floor(axes, low_points, panel.floor_words, styles)
    if rows:
        _draw_placed(axes, placed, rows, styles, top)
    if aside:
        _draw_aside(axes, aside, styles, side)


def _upright(name: str) -> str:
    """Return the name of a y axis in lines that its height holds: broken before '(', then between words."""
    if len(name) <= _LETTERS_UPRIGHT:
        return name
    parts = name.replace(" (", "\n(").splitlines()
    return "\n".join(textwrap.fill(part, _LETTERS_UPRIGHT, break_long_words=False) for part in parts)


def _draw_points(axes: Axes, points: list[Point], styles: Mapping[str, LabelStyle]) -> None:
    """Draw the bars of all points, then the markers of each label: few artists, since a large suite has thousands of points."""
    upright = [
        (point, point.y_low, point.y_high) for point in points if point.y_low is not None and point.y_high is not None
    ]
    level = [
        (point, point.x_low, point.x_high) for point in points if point.x_low is not None and point.x_high is not None
    ]
    for draw, places, bars in (
        (axes.vlines, [point.x for point, _, _ in upright], upright),
        (axes.hlines, [point.y for point, _, _ in level], level),
    ):
        if bars:
            colours = [styles[point.label].colour for point, _, _ in bars]
            draw(
                places,
                [low for _, low, _ in bars],
                [high for _, _, high in bars],
                colors=colours,
                linewidth=1.1,
                alpha=0.6,
                zorder=3,
            )
    by_label: dict[str, list[Point]] = {}
    for point in points:
        by_label.setdefault(point.label, []).append(point)
    for label, mine in by_label.items():
        _draw_markers(axes, [point.x for point in mine], [point.y for point in mine], styles[label])


def _draw_markers(axes: Axes, xs: list[float], ys: list[float], style: LabelStyle, **options: Any) -> None:
    axes.plot(
        xs,
        ys,
        marker=style.marker,
        color=style.colour,
        markersize=6.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        linestyle="none",
        zorder=4,
        **options,
    )


def _draw_hollow(axes: Axes, x: float, y: float, style: LabelStyle, **options: Any) -> None:
    """Draw the marker of a run without a result."""
    axes.plot(
        [x],
        [y],
        marker=style.marker,
        markersize=5,
        markerfacecolor="none",
        markeredgecolor=style.colour,
        linestyle="none",
        zorder=5,
        **options,
    )


def _draw_floor(axes: Axes, points: list[Point], words: str, styles: Mapping[str, LabelStyle]) -> None:
    """Draw points below the floor in a strip at the bottom: how far below it they lie is rounding."""
    across = blended_transform_factory(axes.transData, axes.transAxes)
    axes.add_patch(
        Rectangle((0, 0), 1, _FLOOR - 0.02, transform=axes.transAxes, facecolor=FAINT, linewidth=0, zorder=0.5)
    )
    axes.text(0.985, _FLOOR - 0.035, words, transform=axes.transAxes, fontsize=7, color=MUTED, va="top", ha="right")
    for point in points:
        _draw_markers(axes, [point.x], [0.05], styles[point.label], transform=across)


def _draw_front(axes: Axes, panel: Panel) -> None:
    """Draw the Pareto front as a staircase from the cheapest point: nothing to the right of a point and below it is worth its cost."""
    xs, ys = [panel.front[0].x], [panel.front[0].y]
    for before, after in pairwise(panel.front):
        xs += [after.x, after.x]
        ys += [before.y, after.y]
    axes.plot(xs, ys, color=MUTED, linewidth=1.0, linestyle=(0, (4, 2.5)), zorder=1)


def _draw_placed(
    axes: Axes, failures: list[Failure], rows: list[str], styles: Mapping[str, LabelStyle], top: float
) -> None:
    """Draw failures above the data at their x, one row per label."""
    across = blended_transform_factory(axes.transData, axes.transAxes)
    placed = [(failure.x, failure) for failure in failures if failure.x is not None]
    axes.add_patch(Rectangle((0, 1 - top), 1, top, transform=axes.transAxes, facecolor=FAINT, linewidth=0, zorder=0.5))
    for row, label in enumerate(rows):
        height = 1 - 0.015 - _ROW * (row + 0.5)
        mine = sorted(((x, failure) for x, failure in placed if failure.label == label), key=lambda pair: pair[0])
        before: str | None = None
        for x, failure in mine:
            _draw_hollow(axes, x, height, styles[label], transform=across, clip_on=False)
            if failure.status != before:
                place = axes.transAxes.inverted().transform(axes.transData.transform((x, 1.0)))[0]
                left = place > 0.3
                axes.annotate(
                    failure.status,
                    (x, height),
                    xycoords=across,
                    xytext=(-5 if left else 5, 0),
                    textcoords="offset points",
                    ha="right" if left else "left",
                    va="center",
                    fontsize=7,
                    color=STATUS_COLOURS[failure.status][0],
                )
            before = failure.status


def _draw_aside(axes: Axes, failures: list[Failure], styles: Mapping[str, LabelStyle], side: float) -> None:
    """Draw failures that have no place on either axis in a strip at the right, one below the other."""
    axes.add_patch(
        Rectangle((1 - side, 0), side, 1, transform=axes.transAxes, facecolor=FAINT, linewidth=0, zorder=0.5)
    )
    axes.text(1 - side + 0.02, 0.985, "no result", transform=axes.transAxes, fontsize=7, color=MUTED, va="top")

    def said(x: float, y: float, words: str, colour: str) -> None:
        axes.text(1 - side + x, y, words, transform=axes.transAxes, fontsize=7, va="center", color=colour)

    shown = failures if len(failures) <= _FAILED_AT_MOST else failures[: _FAILED_AT_MOST - 1]
    for row, failure in enumerate(shown):
        height = 1 - 0.12 - 0.085 * row
        _draw_hollow(axes, 1 - side + 0.035, height, styles[failure.label], transform=axes.transAxes)
        times = f" ×{failure.runs}" if failure.runs > 1 else ""
        said(0.065, height, f"{failure.status}{times}", STATUS_COLOURS[failure.status][0])
    if len(shown) < len(failures):
        height = 1 - 0.12 - 0.085 * len(shown)
        said(0.02, height, f"and {len(failures) - len(shown)} more", MUTED)


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


def _context(extra: dict[str, Any] | None = None) -> Any:
    parameters: Any = {**seaborn.axes_style("ticks"), **_PARAMETERS, **(extra or {})}
    return matplotlib.rc_context(parameters)
