"""A table as data: one set of cells for the page and LaTeX, and the raw numbers behind it for CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from typing import Any

from metabench.report.numbers import ABSENT

DAGGER = "†"
DOUBLE_DAGGER = "‡"


@dataclass(frozen=True)
class Bar:
    """A number of a cell as text and as a bar. share: of the scale's length that it fills, 0 to 1. title: shown on hover."""

    text: str
    share: float
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell. sort: what the page sorts by (None sorts last). title: shown on hover, exact values. label: a method, drawn with its
    marker. doubt, inexact: why the label has a dagger, a double dagger (empty: it has none). badges: (status, count) pairs, drawn before
    the text. verdict: of a certificate, drawn likewise. tone: 'best', 'muted', 'prose' or 'lines'. anchor: where a link leads on the
    page. folded: what the page shows only on request, as pairs of a summary and lines. bars: numbers below the text, drawn on one scale.
    """

    text: str
    sort: float | str | None = None
    title: str = ""
    label: str = ""
    doubt: str = ""
    inexact: str = ""
    badges: tuple[tuple[str, int], ...] = ()
    tone: str = ""
    anchor: str = ""
    verdict: str = ""
    folded: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bars: tuple[Bar, ...] = ()

    @property
    def marks(self) -> str:
        """The signs behind the label."""
        return signs(self.doubt, self.inexact)


def exact_cell(text: str, value: float | None) -> Cell:
    """Return a cell of a number, every digit on hover."""
    return Cell(text, value, "" if value is None else repr(value))


@dataclass(frozen=True)
class Column:
    """A column: header, its group (empty: none), description, whether it holds numbers, and why a header that is
    a label has a dagger (doubt), a double dagger (inexact).
    """

    key: str
    header: str
    group: str = ""
    description: str = ""
    numeric: bool = True
    doubt: str = ""
    inexact: str = ""

    @property
    def marks(self) -> str:
        """The signs behind the header."""
        return signs(self.doubt, self.inexact)


@dataclass
class Table:
    """A table with its caption; `records` are the raw values of its rows, one dictionary each, for CSV.

    certificates: what the certificates say of the methods in it, a sentence of the caption, which the page links to that section.
    folded: whether the page shows it only on request. rows_shown: rows that the page shows before a reader asks for all.
    """

    name: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[dict[str, Cell]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    certificates: str = ""
    folded: bool = False
    rows_shown: int | None = None

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headers over several columns: (name, number of columns) from left to right; the name is empty over lone columns."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found

    def drop_absent(self, keys: tuple[str, ...]) -> None:
        """Drop the columns in `keys` that no row fills."""
        empty = {key for key in keys if all(row[key].text == ABSENT for row in self.rows)}
        self.columns = [column for column in self.columns if column.key not in empty]

    def to_csv(self) -> str:
        """Return the raw values as CSV; numbers keep every digit, what is absent is empty."""
        names = list(dict.fromkeys(name for record in self.records for name in record))
        return records_to_csv(self.records, names or [column.key for column in self.columns])

    def to_latex(self) -> str:
        """Return a `table` environment for the packages booktabs and graphicx, wide ones shrunk to the line."""
        rows = [[_latex_text(row[column.key]) for column in self.columns] for row in self.rows]
        rows.insert(0, [column.header + column.marks for column in self.columns])
        head, *body = ("    " + " & ".join(map(escape_latex, row)) + r" \\" for row in rows)
        lines = [
            r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escape_latex(f'{self.title}. {self.full_caption}')}}}",
            rf"  \label{{tab:{self.name}}}",
            r"  \resizebox{\linewidth}{!}{%",
            rf"  \begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in self.columns)}}}",
            r"    \toprule",
            *self._latex_groups(),
            head,
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}}",
            *(rf"  \par\small {escape_latex(note)}" for note in self.notes),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    @property
    def full_caption(self) -> str:
        """The caption, with what the certificates say of the methods in it."""
        return f"{self.caption} Certificates: {self.certificates}" if self.certificates else self.caption

    def _latex_groups(self) -> list[str]:
        """Return the line of headers over several columns, with rules below them; none where there are none."""
        headers, rules, start = [], [], 1
        for name, width in self.groups:
            headers.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(name)}}}")
            rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] * bool(name)
            start += width
        return ["    " + " & ".join(headers) + r" \\", "    " + "".join(rules)] if rules else []


def signs(doubt: str, inexact: str) -> str:
    """Return the marks of a label: a dagger if it is in doubt, a double dagger if it is declared exact but is not."""
    return DAGGER * bool(doubt) + DOUBLE_DAGGER * bool(inexact)


def _latex_text(cell: Cell) -> str:
    badges = ", ".join(f"{status} {number}" for status, number in cell.badges)
    text = ", ".join(filter(None, (cell.text, *(bar.text for bar in cell.bars))))
    if cell.label:
        value = text if text != cell.label else ""
        text = " ".join(part for part in (cell.label + cell.marks, value) if part)
    text = ", ".join(filter(None, (text, *(bar.text for bar in cell.bars))))
    return ": ".join(part for part in (cell.verdict, badges, text) if part)


def records_to_csv(records: list[dict[str, Any]], names: list[str]) -> str:
    """Return dictionaries as CSV with the columns `names`; what is absent is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: str(one).lower() if isinstance(one, bool) else one for name, one in record.items()})
    return text.getvalue()


_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "\u00d7": "$\\times$",
    "\u2212": "$-$",
    "–": "--",
    "±": "$\\pm$",
    "µ": "\\textmu{}",
    "·": "\\textperiodcentered{}",
    "\u202f": "\\,",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
    "Δ": "$\\Delta$",
    "†": "\\dag{}",
    "‡": "\\ddag{}",
    "✓": "$\\checkmark$",
    "\u00a0": "~",
    "\n": " ",
}
_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def escape_latex(text: str) -> str:
    """Return text as LaTeX that prints it, with the signs that numbers are written with as mathematics."""
    parts = re.split("([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text)
    written = ["".join(_LATEX.get(letter, letter) for letter in part) for part in parts[0::2]]
    powers = [f"$^{{{part.translate(_SUPERSCRIPTS)}}}$" for part in parts[1::2]] + [""]
    return "".join(text + power for text, power in zip(written, powers, strict=True))
