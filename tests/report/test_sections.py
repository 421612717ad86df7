"""Sections of the report: the package's are found, and a plugin brings its own figures, tables and sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from metabench.core.errors import MetabenchError
from metabench.report.figures import build_figures
from metabench.report.page.page import build_page
from metabench.report.results.load import load_suite
from metabench.report.section import SECTIONS, sections
from metabench.report.tables import build_tables

PLUGIN = '''
from metabench.report.numbers import count
from metabench.report.section import Section
from metabench.report.tables.table import Cell, Column, Table


def tables(suite):
    columns = [Column("method", "method", numeric=False), Column("rows", "rows")]
    made = Table("row_counts", "Rows by method", "How many rows each method has.", columns)
    for method in dict.fromkeys(row["method"] for row in suite.rows):
        number = sum(row["method"] == method for row in suite.rows)
        made.rows.append({"method": Cell(method, method), "rows": Cell(count(number), number)})
        made.records.append({"method": method, "rows": number})
    return [made]


COUNTS = Section("row-counts", "Rows", tables=tables, sentences=lambda suite: [("Rows", f"There are {len(suite.rows)} of them.")])
'''


Write = Callable[[Path], Path]


@pytest.fixture
def written(tmp_path: Path, synthetic: ModuleType, save: Callable[..., Path]) -> Write:
    """Return what collects a few rows of a suite with a plugin."""

    def write(plugin: Path) -> Path:
        rows = [synthetic.row(method, seed) for method in ("none", "unrolled", "t1t2") for seed in (0, 1)]
        return save(tmp_path, rows, synthetic.metadata() | {"suite": f"name: synthetic\nbaseline: unrolled\nplugins: [{plugin}]\n"})

    return write


def test_the_memory_study_is_a_section() -> None:
    assert list(SECTIONS()) == ["memory-study"]


def test_a_plugin_brings_a_section(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "counts.py"
    plugin.write_text(PLUGIN)
    results = written(plugin)
    page = build_page(results, tmp_path / "report").read_text(encoding="utf-8")
    assert '<section id="row-counts">' in page and '<a href="#row-counts">Rows</a>' in page
    assert "There are 6 of them." in page
    assert any(path.name == "row_counts.csv" for path in build_tables(results, tmp_path / "tables"))
    assert (tmp_path / "tables" / "row_counts.csv").read_text().splitlines() == ["method,rows", "none,2", "unrolled,2", "t1t2,2"]
    assert build_figures(results, tmp_path / "figures")


def test_a_plugin_that_is_gone_or_declares_no_section_is_left_alone(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "gone.py"
    assert list(sections(load_suite(written(plugin)))) == ["memory-study"]
    plugin.write_text("raise RuntimeError('it declares methods, and is not imported')\n")
    assert list(sections(load_suite(written(plugin)))) == ["memory-study"]


def test_a_section_that_cannot_be_used_is_an_error(tmp_path: Path, written: Write) -> None:
    plugin = tmp_path / "spoilt.py"
    plugin.write_text(PLUGIN.replace("tables=tables", "tables=3"))
    with pytest.raises(MetabenchError, match="section 'row-counts': tables is 3, expected a function of the suite"):
        sections(load_suite(written(plugin)))
