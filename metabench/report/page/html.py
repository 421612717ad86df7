"""Tables, legends and names as HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from itertools import pairwise

from markupsafe import Markup

from metabench.report.drawing.palette import MARKERS, STATUS_WORDS, LabelStyle, marker_outline
from metabench.report.results.certified import VERDICT_WORDS
from metabench.report.tables.table import DAGGER, DOUBLE_DAGGER, Cell, Column, Table
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED

CERTIFICATES = "certificates"  # the section of the page
EXACT = "exact"  # the entry of its glossary
# Classes of the style sheet; all other verdicts look alike.
VERDICT_CLASSES = {CERTIFIED: "certified", AS_DECLARED: "declared", FAILED: "failed"}


def marker_symbols() -> Markup:
    """Return the markers' outlines once, for `<use>` to draw."""
    symbols = "".join(
        f'<symbol id="mk{index}" viewBox="-7 -7 14 14"><path d="{marker_outline(marker)}"/></symbol>'
        for index, marker in enumerate(MARKERS)
    )
    return Markup(f'<svg class="symbols" width="0" height="0" aria-hidden="true">{symbols}</svg>')


def mark(style: LabelStyle) -> Markup:
    """Return a label's marker in its colour."""
    return Markup(
        f'<svg class="mark" aria-hidden="true" style="fill:var(--{style.name})"><use href="#mk{MARKERS.index(style.marker)}"/></svg>'
    )


def label(name: str, styles: Mapping[str, LabelStyle], doubt: str = "", inexact: str = "") -> Markup:
    """Return a label with its marker; long options may wrap.

    doubt: why its method is not certified, for a dagger that says so. inexact: why it is not exact as declared, for a double one.
    """
    picture = mark(styles[name]) if name in styles else Markup("")
    return Markup(
        f'<span class="label">{picture}<span><code>{_breakable(name)}</code>{_signs(doubt, inexact)}</span></span>'
    )


def _signs(doubt: str, inexact: str) -> str:
    return "".join(
        f'<a class="dagger" href="#{section}" title="{escape(why)}" aria-label="{escape(why)}">{sign}</a>'
        for sign, section, why in ((DAGGER, CERTIFICATES, doubt), (DOUBLE_DAGGER, EXACT, inexact))
        if why
    )


def badge(status: str, number: int) -> Markup:
    """Return a status with its count."""
    return Markup(f'<span class="badge {status}" title="{escape(STATUS_WORDS[status])}">{status}\u00a0{number}</span>')


def verdict_badge(verdict: str) -> Markup:
    """Return what a certificate says, its meaning on hover."""
    name = VERDICT_CLASSES.get(verdict, "none")
    return Markup(f'<span class="verdict {name}" title="{escape(VERDICT_WORDS[verdict])}">{escape(verdict)}</span>')


def code_names(sentence: str) -> Markup:
    """Return a sentence with names in backquotes as HTML."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(sentence)))


def table_html(table: Table, styles: Mapping[str, LabelStyle]) -> Markup:
    """Return a table that can be sorted by any column: header buttons, and the value to sort by in each cell's `data-sort`."""
    parts = [
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.title)}"><table class="sortable">'
    ]
    parts.append(f'<caption class="hidden">{escape(table.title)}</caption><thead>')
    if any(name for name, _ in table.groups):
        cells = "".join(
            f'<th colspan="{width}"{_group_class(name)} scope="colgroup">{escape(name)}</th>'
            for name, width in table.groups
        )
        parts.append(f'<tr class="groups">{cells}</tr>')
    starts = _group_starts(table.columns)
    parts.append(
        "<tr>" + "".join(_header(column, column.key in starts) for column in table.columns) + "</tr></thead><tbody>"
    )
    classes = {
        column.key: " ".join(filter(None, ("n" if column.numeric else "", "g" if column.key in starts else "")))
        for column in table.columns
    }
    for row in table.rows:
        parts.append(
            "<tr>"
            + "".join(
                _cell(row[column.key], classes[column.key], place == 0, styles)
                for place, column in enumerate(table.columns)
            )
            + "</tr>"
        )
    parts.append("</tbody></table></div>")
    return Markup("".join(parts))


def _header(column: Column, starts: bool) -> str:
    classes = " ".join(filter(None, ("n" if column.numeric else "", "g" if starts else "")))
    title = f' title="{escape(column.description)}"' if column.description else ""
    return f'<th scope="col" class="{classes}"{title} aria-sort="none"><button type="button">{_header_text(column)}</button></th>'


def _header_text(column: Column) -> str:
    """Return a header; in the status matrix headers are labels, which may break, others are words, which may not."""
    if not column.key.startswith("label:"):
        return escape(column.header)
    # No link: the header is a button already.
    signs = "".join(
        f'<span class="dagger" title="{escape(why)}">{sign}</span>'
        for sign, why in ((DAGGER, column.doubt), (DOUBLE_DAGGER, column.inexact))
        if why
    )
    return _breakable(column.header) + signs


def _cell(cell: Cell, classes: str, first: bool, styles: Mapping[str, LabelStyle]) -> str:
    attributes = ""
    names = " ".join(filter(None, (classes, cell.tone)))
    if names:
        attributes += f' class="{names}"'
    if cell.sort is not None:
        value = repr(float(cell.sort)) if isinstance(cell.sort, int | float) else escape(str(cell.sort))
        attributes += f' data-sort="{value}"'
    if cell.title:
        attributes += f' title="{escape(cell.title)}"'
    inside = "".join(str(badge(status, number)) for status, number in cell.badges)
    if cell.verdict:
        inside += str(verdict_badge(cell.verdict))
    if cell.label:
        inside += str(label(cell.label, styles, cell.doubt, cell.inexact))
        rest = cell.text if cell.text != cell.label else ""
        inside += f'<span class="value">{escape(rest)}</span>' if rest else ""
    elif cell.anchor:
        inside += f'<a href="#{escape(cell.anchor)}">{_breakable(cell.text)}</a>'
    elif cell.text:
        inside += f'<span class="message">{escape(cell.text)}</span>' if cell.badges else escape(cell.text)
    for words, lines in cell.folded:
        listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
        inside += f"<details><summary>{escape(words)}</summary><ul>{listed}</ul></details>"
    return f'<th scope="row"{attributes}>{inside}</th>' if first else f"<td{attributes}>{inside}</td>"


def _group_starts(columns: list[Column]) -> set[str]:
    """Return the keys of columns that follow a rule: where a group begins or ends."""
    return {after.key for before, after in pairwise(columns) if before.group != after.group}


def _group_class(name: str) -> str:
    return ' class="group"' if name else ""


def _breakable(name: str) -> str:
    """Escape a name and let a line break after '_' and ',', and before '('."""
    return re.sub(r"([_,])", r"\1<wbr>", escape(name)).replace("(", "<wbr>(")
