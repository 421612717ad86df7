"""What papers published, beside the same quantity here. A paper's figures are data: a file in `metabench/papers`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from metabench.papers.beside import beside
from metabench.papers.read import papers
from metabench.report import numbers
from metabench.report.blocks import Note
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.report.tables.table import Cell, Column, Table


def _parts(suite: Suite) -> list[Part]:
    known = papers().values()
    used = {
        problem
        for paper in known
        for figure in paper.figures
        if figure.comparable
        for problem in figure.comparable.problems
    }
    rows = [row for row in suite.rows if row["problem"] in used]
    if not rows:
        return []
    found = beside(known, pd.DataFrame(rows))
    found = found[found["settings"] > 0]
    if found.empty:
        return []
    table = Table(
        "published",
        "Published figures beside these",
        "Published: computed from what the paper prints. Here: median over settings, and the range over settings and seeds. "
        "No protocol is the paper's own: compare signs and sizes, not digits.",
        [
            Column("paper", "paper", numeric=False),
            Column("what", "quantity", numeric=False),
            Column("published", "published"),
            Column("ours", "here"),
            Column("settings", "settings"),
            Column("differs", "how the protocols differ", numeric=False),
        ],
    )
    for record in found.to_dict("records"):
        table.rows.append(_row({str(name): value for name, value in record.items()}))
        table.records.append({str(name): value for name, value in record.items()})
    left = Note(
        "Rows are there for figures that a suite's problems can be set beside; the others are in the papers' files."
    )
    return [Part("published", "Published figures", [table, left], folded=True)]


def _row(record: dict[str, Any]) -> dict[str, Cell]:
    what = record["what"] + (f", {record['method']} / {record['against']}" if record["relation"] == "ratio" else "")
    what += f", {record['method']} − {record['against']}" if record["relation"] == "difference" else ""
    written = numbers.ratio if record["relation"] == "ratio" else numbers.plain
    spread = f" [{numbers.significant(record['ours_low'])}, {numbers.significant(record['ours_high'])}]"
    published = "" if math.isnan(record["published"]) else written(record["published"])
    return {
        "paper": Cell(record["paper"], record["paper"]),
        "what": Cell(
            f"{what}, {record['model']}, {record['data']}", what, title=f"{record['printed']}; {record['source']}"
        ),
        "published": Cell(published or numbers.ABSENT, record["published"] if published else None),
        "ours": Cell(written(record["ours"]) + spread, record["ours"]),
        "settings": Cell(numbers.count(record["settings"]), record["settings"]),
        "differs": Cell(record["differs"], tone="prose"),
    }


PAPERS = Section("published", "Published figures", _parts, order=28, module=__name__)
