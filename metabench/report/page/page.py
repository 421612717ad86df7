"""The page: one self-contained file, the parts of the report one below the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metabench.report.drawing.drawing import draw_svg
from metabench.report.drawing.palette import LabelStyle, style_variables
from metabench.report.figures.figure import Figure
from metabench.report.page import html
from metabench.report.results.certified import doubt
from metabench.report.results.entries import Suite
from metabench.report.section import contents, headline
from metabench.report.tables.table import Table, signs


def render_page(suite: Suite) -> str:
    """Return the page as HTML."""
    loader = PackageLoader("metabench.report.page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["names"] = lambda text: html.code_names(_marked(text, suite))
    environment.tests["of"] = lambda block, sort: type(block).__name__ == sort
    styles = suite.all_styles

    def label(name: str) -> Markup:
        why = doubt(suite.verdicts[name]) if name in suite.verdicts else ""
        return html.label(name, styles, why, suite.inexact.get(name, ""))

    def table(made: Table) -> Markup:
        return html.table_html(made, styles)

    return environment.get_template("page.html").render(
        suite=suite,
        light=Markup(style_variables(0)),
        dark=Markup(style_variables(1)),
        css=Markup(loader.get_source(environment, "page.css")[0]),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        symbols=html.marker_symbols(),
        label=label,
        table=table,
        drawn=lambda figure: _drawn(figure, styles),
        headline=headline(suite),
        parts=contents(suite),
    )


def _marked(text: str, suite: Suite) -> str:
    """Mark names of uncertified methods with a dagger, and of methods that are not exact as declared with a double dagger."""
    doubtful = {label for label, found in suite.verdicts.items() if doubt(found)}
    doubtful |= {entry.method for entry in suite.entries if doubt(entry.verdict)}
    inexact = suite.inexact_methods | suite.inexact

    def signed(match: re.Match[str]) -> str:
        return match.group() + signs(match[1] if match[1] in doubtful else "", inexact.get(match[1], ""))

    return re.sub(r"`([^`]*)`", signed, text)


def _drawn(figure: Figure, styles: Mapping[str, LabelStyle]) -> dict[str, Any]:
    """Return what the page shows of a figure: its panels as SVG with the notes of their legends, and the labels of its legend."""
    every = {**styles, **figure.styles}
    panels = [
        {
            "title": panel.title,
            "svg": Markup(draw_svg(panel, every, f"{figure.name}-{index}")),
            "notes": [(name, panel.notes.get(name, "")) for name in every if name in panel.labels]
            if panel.notes
            else [],
        }
        for index, panel in enumerate(figure.panels)
    ]
    own_legends = any(panel["notes"] for panel in panels)
    return {"panels": panels, "labels": [] if own_legends else [name for name in every if name in set(figure.labels)]}
