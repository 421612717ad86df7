"""The report's work grows with its rows, and not with their square."""

from __future__ import annotations

import cProfile
from pathlib import Path
from typing import Any

from metabench.report.build import blocks
from metabench.report.results.load import load_suite
from metabench.report.tables.table import Table
from metabench.results.store import write_rows


def calls(path: Path, rows: list[dict[str, Any]]) -> int:
    """Return the calls that it takes to make every block from rows, and to write the tables; seconds would depend on the machine."""
    write_rows(path, rows)
    profile = cProfile.Profile()
    profile.enable()
    for table in blocks(load_suite(path), Table):
        table.to_csv()
        table.to_latex()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def test_four_times_the_rows_are_about_four_times_the_work(tmp_path: Path, synthetic: Any) -> None:
    rows = synthetic.many_rows(4_000)
    few = calls(tmp_path / "few.parquet", rows[:1_000])
    many = calls(tmp_path / "many.parquet", rows)
    assert many < 5 * few
