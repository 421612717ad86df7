"""The page: one self-contained file, the parts of the report one below the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metabench.report.blocks import Block
from metabench.report.drawing.drawing import draw_svg
from metabench.report.figure import Figure
from metabench.report.page.names import Names, code_names, sort_keys
from metabench.report.palette import STATUS_WORDS, style_variables
from metabench.report.results.certified import VERDICT_WORDS, doubt
from metabench.report.results.entries import Suite
from metabench.report.section import contents, headline
from metabench.report.tables.table import Table, signs
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED

_LETTERS_AT_MOST = 170  # of all headings, beyond which they are a menu at every width: a line holds no more


def render_page(suite: Suite) -> str:
    """Return the page as HTML."""
    loader = PackageLoader("metabench.report.page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names, parts = Names(suite.all_styles), contents(suite)
    environment.filters["names"] = lambda text: code_names(_marked(text, suite))
    environment.tests["of"] = lambda block, sort: type(block).__name__ == sort
    environment.globals.update(
        names=names,
        grouped=_grouped,
        laid_out=_laid_out,
        panels=lambda figure: _panels(figure, suite, names),
        status_words=STATUS_WORDS,
        verdict_words=VERDICT_WORDS,
        verdict_classes={CERTIFIED: "certified", AS_DECLARED: "declared", FAILED: "failed"},
    )
    figures = [block for part in parts for block in part.blocks if isinstance(block, Figure)]
    shown = {label for figure in figures for label in figure.labels if label not in figure.styles}
    body = environment.get_template("body.html").render(
        suite=suite,
        headline=headline(suite),
        parts=parts,
        menu=sum(len(part.title) + 3 for part in parts) > _LETTERS_AT_MOST,
        legend=[label for label in suite.all_styles if label in shown],
    )
    return environment.get_template("page.html").render(
        suite=suite,
        light=Markup(style_variables(0)),
        dark=Markup(style_variables(1)),
        css=Markup(loader.get_source(environment, "page.css")[0]) + names.css(),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        body=Markup(body),
    )


def _marked(text: str, suite: Suite) -> str:
    """Mark names of uncertified methods with a dagger, and of methods that are not exact as declared with a double dagger."""
    doubtful = {label for label, found in suite.verdicts.items() if doubt(found)}
    doubtful |= {entry.method for entry in suite.entries if doubt(entry.verdict)}
    inexact = suite.inexact_methods | suite.inexact

    def signed(match: re.Match[str]) -> str:
        return match.group() + signs(match[1] if match[1] in doubtful else "", inexact.get(match[1], ""))

    return re.sub(r"`([^`]*)`", signed, text)


def _grouped(blocks: Sequence[Block]) -> list[tuple[bool, list[Block]]]:
    """Return the blocks in runs of figures, which share rows, and of others."""
    return [(are, list(run)) for are, run in groupby(blocks, lambda block: isinstance(block, Figure))]


def _laid_out(table: Table) -> dict[str, Any]:
    """Return what the page needs of a table beyond its cells: the classes of its columns, and what its cells sort by."""
    starts = {after.key for before, after in pairwise(table.columns) if before.group != after.group}
    classes = {
        column.key: " ".join(filter(None, ("n" * column.numeric, "g" * (column.key in starts))))
        for column in table.columns
    }
    keys = [sort_keys(row[column.key] for row in table.rows) for column in table.columns]
    rows = [
        [(column, row[column.key], keys[place][index]) for place, column in enumerate(table.columns)]
        for index, row in enumerate(table.rows)
    ]
    kept = len(rows) if table.rows_shown is None else table.rows_shown
    return {"classes": classes, "bodies": [body for body in (rows[:kept], rows[kept:]) if body]}


def _panels(figure: Figure, suite: Suite, names: Names) -> list[dict[str, Any]]:
    """Return what the page shows of a figure's panels: SVG, notes on labels, and the labels that are not in the page's legend."""
    every = {**suite.all_styles, **figure.styles}

    def name_of(label: str) -> str:
        return names.of(label, every[label])

    return [
        {
            "title": panel.title,
            "svg": Markup(draw_svg(panel, every, name_of)),
            "notes": [
                (name_of(label), label, panel.notes.get(label, ""))
                for label in every
                if label in panel.labels and (label in panel.notes or label in figure.styles)
            ],
        }
        for panel in figure.panels
    ]
