"""Seeds are combined as each column declares, and nowhere else."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any, get_args

import pyarrow as pa
import pytest

from metabench.report.build import blocks
from metabench.report.results.columns import combined
from metabench.report.tables.cells import bytes_cell
from metabench.report.tables.table import Table
from metabench.results.schema import BY_NAME, COLUMNS, Seeds
from metabench.results.statistics import intervals
from metabench.results.typed import NUMBERS

_NUMERIC = (pa.int64(), pa.float64(), NUMBERS)


@pytest.mark.parametrize("column", [column for column in COLUMNS if column.type in _NUMERIC], ids=lambda one: one.name)
def test_every_number_declares_how_its_seeds_are_combined(column: Any) -> None:
    if column.name == "seed":
        assert column.seeds is None
    else:
        assert column.seeds in get_args(Seeds)


def declare(monkeypatch: pytest.MonkeyPatch, name: str, seeds: str | None) -> None:
    monkeypatch.setitem(BY_NAME, name, dataclasses.replace(BY_NAME[name], seeds=seeds))


@pytest.mark.parametrize(
    ("seeds", "expected"), [("same", 3.0), ("max", 8.0), ("median", 3.0), ("mean", 4.0), ("interval", 4.0)]
)
def test_what_seeds_become(monkeypatch: pytest.MonkeyPatch, seeds: str, expected: float) -> None:
    declare(monkeypatch, "outer_loss", seeds)
    found = combined([{"outer_loss": value} for value in (None, 3.0, math.nan, 8.0, 1.0)], "outer_loss")
    assert (found.value if seeds == "interval" else found) == expected


def test_without_a_value_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert combined([{"peak_bytes": None}, {"peak_bytes": None}], "peak_bytes") is None
    assert combined([], "outer_loss") is None


def test_a_column_that_declares_nothing_is_not_combined() -> None:
    with pytest.raises(ValueError, match="column 'seed' does not declare"):
        combined([{"seed": 1}], "seed")


def test_numbers_are_combined_by_name_each_over_the_seeds_that_have_it() -> None:
    rows = [{"metrics": {"accuracy": 1.0}}, {"metrics": {"accuracy": 3.0, "loss": 5.0}}, {"metrics": None}]
    assert combined(rows, "metrics") == {"accuracy": 2.0, "loss": 5.0}


def test_the_reports_numbers_follow_a_changed_declaration(
    monkeypatch: pytest.MonkeyPatch, load_rows: Any, synthetic: Any
) -> None:
    peaks, times, qualities = (5000, 1000, 3000), (0.5, 0.1, 0.2), (0.9, 0.5, 0.6)
    rows = [
        synthetic.row("unrolled", seed, peak_bytes=peak, time_median_s=time, quality=quality)
        for seed, (peak, time, quality) in enumerate(zip(peaks, times, qualities, strict=True))
    ]
    (before,) = load_rows(rows).entries
    assert (before.peak_bytes, before.time_median) == (5000, 0.2)
    assert before.quality == intervals([qualities])[0]
    for name, seeds in (("peak_bytes", "median"), ("time_median_s", "max"), ("quality", "median")):
        declare(monkeypatch, name, seeds)
    suite = load_rows(rows)
    (after,) = suite.entries
    assert (after.peak_bytes, after.time_median) == (3000, 0.5)
    assert after.quality is not None and after.quality.value == statistics.median(qualities)
    shown = [row for table in blocks(suite, Table) if table.name.startswith("setting") for row in table.rows]
    assert [row["peak"].text for row in shown] == [bytes_cell(3000).text]
