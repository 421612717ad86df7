"""Sections of the report: the package's are found, and a suite brings its own sections and figures; what raises says so in its place."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.report.blocks import Drawing, Note
from metabench.report.build import blocks, build_figures, build_page, build_tables
from metabench.report.results.frame import frame
from metabench.report.results.load import load_suite
from metabench.report.section import SECTIONS, contents, headline, sections
from metabench.report.tables.table import Table

OWN = [
    *("answer", "memory-study", "rivals", "learned-optimisers", "toy", "lengths", "choices", "kernels", "searches", "net-tables"),
    *("problems", "own-figures", "published", "certificates", "measurement", "coverage", "provenance", "glossary"),
]
PLUGIN = """
from metabench.report.blocks import Sentence
from metabench.report.numbers import count
from metabench.report.section import Part, Section
from metabench.report.tables.table import Cell, Column, Table


def parts(suite):
    columns = [Column("method", "method", numeric=False), Column("rows", "rows")]
    made = Table("row_counts", "Rows by method", "How many rows each method has.", columns)
    for method in dict.fromkeys(row["method"] for row in suite.rows):
        number = sum(row["method"] == method for row in suite.rows)
        made.rows.append({"method": Cell(method, method), "rows": Cell(count(number), number)})
        made.records.append({"method": method, "rows": number})
    return [Part("row-counts", "Rows", [Sentence(f"There are {len(suite.rows)} of them."), made])]


COUNTS = Section("row-counts", "Rows", parts, headline=lambda suite: f"There are {len(suite.rows)} rows.")
"""
FIGURE = '''"""Peak bytes of <b>every</b> entry

One bar for each.
"""


def draw(frame, axes):
    axes.bar(range(len(frame)), frame["peak_bytes"])
'''

Write = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path, synthetic: ModuleType, save: Callable[..., Path]) -> Write:
    """Return what collects a few rows of a suite with plugins or figures."""

    def write(**files: Path) -> Path:
        rows = [synthetic.row(method, seed) for method in ("none", "unrolled", "t1t2") for seed in (0, 1)]
        own = "".join(f"{key}: [{path}]\n" for key, path in files.items())
        return save(tmp_path, rows, synthetic.metadata() | {"suite": f"name: synthetic\nbaseline: unrolled\n{own}"})

    return write


def test_the_sections_of_the_package_are_found_in_their_order() -> None:
    assert list(SECTIONS()) == OWN


def test_a_plugin_brings_a_section_and_its_headline(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "counts.py"
    plugin.write_text(PLUGIN)
    results = written(plugins=plugin)
    page = build_page(results, tmp_path / "report").read_text(encoding="utf-8")
    assert 'id="row-counts"' in page and 'href="#row-counts"' in page
    assert "There are 6 of them." in page
    assert any(path.name == "row_counts.csv" for path in build_tables(results, tmp_path / "tables"))
    made = (tmp_path / "tables" / "row_counts.csv").read_text().splitlines()
    assert made == ["method,rows", "none,2", "unrolled,2", "t1t2,2"]
    assert headline(load_suite(results)) == "There are 6 rows."


def test_a_plugin_that_is_gone_or_declares_no_section_is_left_alone(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "gone.py"
    assert list(sections(load_suite(written(plugins=plugin)))) == OWN
    plugin.write_text("raise RuntimeError('it declares methods, and is not imported')\n")
    assert list(sections(load_suite(written(plugins=plugin)))) == OWN


def test_a_section_that_cannot_be_used_is_an_error(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "spoilt.py"
    plugin.write_text(PLUGIN.replace('"Rows", parts', '"Rows", 3'))
    with pytest.raises(MetabenchError, match="section 'row-counts': parts is 3, expected a function of the suite"):
        sections(load_suite(written(plugins=plugin)))


def test_a_headline_that_raises_is_said_beside_its_parts(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "counts.py"
    plugin.write_text(PLUGIN.replace('f"There are {len(suite.rows)} rows."', "1 / 0"))
    suite = load_suite(written(plugins=plugin))
    own = {part.name: part for part in contents(suite) if part.name.startswith("row-counts")}
    assert list(own) == ["row-counts", "row-counts-headline"] and headline(suite).startswith("Fewer than 3 seeds")
    (note,) = own["row-counts-headline"].blocks
    assert isinstance(note, Note) and note.warns and "ZeroDivisionError" in note.text


@pytest.mark.parametrize("broken", ["len(suite.row)", "1 / 0"])
def test_a_section_that_raises_says_why_in_its_place_and_the_rest_is_made(
    tmp_path: Path, written: Write, broken: str
) -> None:
    plugin = tmp_path / "counts.py"
    plugin.write_text(PLUGIN.replace("len(suite.rows)", broken))
    results = written(plugins=plugin)
    suite = load_suite(results)
    (part,) = (part for part in contents(suite) if part.name == "row-counts")
    (note,) = part.blocks
    assert isinstance(note, Note) and note.warns
    assert note.text.startswith("The section 'row-counts' could not be made: ")
    assert ("AttributeError" if "row)" in broken else "ZeroDivisionError: division by zero") in note.text
    assert part.title == "Rows" and headline(suite).startswith("Fewer than 3 seeds")
    names = {path.name for path in build_tables(results, tmp_path / "tables")}
    assert {"overview.csv", "coverage.tex"} <= names and "row_counts.csv" not in names
    assert "row-counts" in build_page(results, tmp_path / "report").read_text(encoding="utf-8")


def test_a_figure_of_the_suite_is_in_page_and_files(tmp_path: Path, written: Write) -> None:
    figure = tmp_path / "Peak Bytes.py"
    figure.write_text(FIGURE)
    results = written(figures=figure)
    suite = load_suite(results)
    (drawing,) = (one for one in blocks(suite, Drawing) if one.shown)
    assert drawing.title == "Peak bytes of <b>every</b> entry" and drawing.caption == "One bar for each."
    names = {path.name for path in build_figures(results, tmp_path / "figures")}
    assert {"own-peak-bytes.pdf", "own-peak-bytes.png", "own-peak-bytes.csv"} <= names
    assert (tmp_path / "figures" / "own-peak-bytes.pdf").read_bytes().startswith(b"%PDF")
    records = list(csv.DictReader((tmp_path / "figures" / "own-peak-bytes.csv").open()))
    assert [record["label"] for record in records] == frame(suite)["label"].to_list()
    page = build_page(results, tmp_path / "report").read_text(encoding="utf-8")
    assert "Peak bytes of &lt;b&gt;every&lt;/b&gt; entry" in page and "own-peak-bytes" in page


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (FIGURE.replace("frame[", "frame.missing["), "AttributeError: 'DataFrame' object has no attribute 'missing'"),
        (FIGURE.replace("draw(", "paint("), "MetabenchError: it defines no function draw(frame, axes)"),
        ("def draw(:\n", "SyntaxError: "),
        (None, "FileNotFoundError: "),
    ],
    ids=["raises", "draws nothing", "no Python", "gone"],
)
def test_a_figure_that_cannot_be_drawn_says_why_in_its_place(
    tmp_path: Path, written: Write, text: str | None, why: str
) -> None:
    figure = tmp_path / "mine.py"
    if text is not None:
        figure.write_text(text)
    suite = load_suite(written(figures=figure))
    (part,) = (part for part in contents(suite) if part.name == "own-figures")
    (note,) = part.blocks
    assert isinstance(note, Note) and note.warns and note.text.startswith(f"The figure `{figure}` could not be drawn: ")
    assert why in note.text
    assert {"overview", "coverage"} <= {table.name for table in blocks(suite, Table)}


def test_published_figures_stand_beside_rows_that_they_can_be_set_beside(load_rows: Any, synthetic: Any) -> None:
    alone = load_rows([synthetic.row("evograd", 0)])
    assert "published" not in [part.name for part in contents(alone)]
    rows = [
        synthetic.row(method, seed, metric="test accuracy (%)", quality=80.0 + seed + 5 * (method == "evograd"))
        for method in ("t1t2", "evograd")
        for seed in range(3)
    ]
    suite = load_rows(rows)
    (part,) = (part for part in contents(suite) if part.name == "published")
    (table,) = (block for block in part.blocks if isinstance(block, Table))
    assert len(table.rows) == len(table.records) > 0
    (difference,) = {record["ours"] for record in table.records}
    assert difference == 5.0 and {record["against"] for record in table.records} == {"t1t2"}
    for row, record in zip(table.rows, table.records, strict=True):
        assert record["settings"] > 0 and record["ours_low"] <= record["ours"] <= record["ours_high"]
        assert row["ours"].sort == record["ours"] and row["differs"].text == record["differs"] != ""
