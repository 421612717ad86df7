"""What groups of cells took, and how it enters the rows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metabench.core.errors import MESSAGE_LENGTH, MetabenchError
from metabench.results.store import collect, read_rows, rows_of, write_rows
from metabench.results.times import read_times, write_times
from tests.report.synthetic_rows import row

UNTIMED: dict[str, Any] = dict.fromkeys(("time_median_s", "time_q1_s", "time_q3_s", "time_repeats"))


def line(cell: str, seconds: float | None, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"group": "toy-0", "part": 0, "cell": cell, "seed": 0, "message": ""}
    if seconds is not None:
        found |= {"round": 0, "order": 0, "seconds": seconds, "calls": 1, "process": 7, "started_at": datetime.now(UTC)}
    return found | changes


def merged(tmp_path: Path, lines: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return the row of one cell, 'aaaaaaaa', collected with lines."""
    write_rows(tmp_path / "row.parquet", [row("unrolled", 0) | UNTIMED | {"cell": "aaaaaaaa"} | changes])
    write_times(tmp_path / "lines.parquet", lines)
    collect([tmp_path / "row.parquet"], tmp_path / "results.parquet", times=[tmp_path / "lines.parquet"])
    (found,) = rows_of(read_rows(tmp_path / "results.parquet"))
    return found


def test_a_row_has_the_median_and_the_quartiles_of_its_rounds(tmp_path: Path) -> None:
    found = merged(
        tmp_path, [line("aaaaaaaa", seconds, round=at) for at, seconds in enumerate([5.0, 1.0, 2.0, 4.0, 3.0])]
    )
    assert [found[name] for name in UNTIMED] == [3.0, 2.0, 4.0, 5]
    assert found["message"] == ""
    assert read_times(tmp_path / "times.parquet").num_rows == 5


def test_a_baseline_has_the_rounds_of_every_part(tmp_path: Path) -> None:
    found = merged(tmp_path, [line("aaaaaaaa", 1.0), line("aaaaaaaa", 3.0, part=1)])
    assert (found["time_median_s"], found["time_repeats"]) == (2.0, 2)


def test_rounds_before_a_failure_count_for_nothing_and_the_row_says_why(tmp_path: Path) -> None:
    gone = line("aaaaaaaa", None, message="not timed: the process was killed")
    found = merged(tmp_path, [line("aaaaaaaa", 1.0), gone], message="no exact hypergradient", status="ok")
    assert [found[name] for name in UNTIMED] == [None] * 4
    assert (found["status"], found["message"]) == ("ok", "no exact hypergradient; not timed: the process was killed")
    other_part = [line("aaaaaaaa", 2.0, part=1), gone]
    assert merged(tmp_path, other_part)["time_median_s"] == 2.0


def test_lines_of_another_cell_or_seed_change_no_row(tmp_path: Path) -> None:
    found = merged(tmp_path, [line("bbbbbbbb", 1.0), line("aaaaaaaa", 1.0, seed=1)])
    assert found["time_median_s"] is None and found["message"] == ""


def test_a_row_that_timed_itself_keeps_its_time(tmp_path: Path) -> None:
    assert merged(tmp_path, [], time_median_s=2.5, time_repeats=3)["time_median_s"] == 2.5


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    found = merged(tmp_path, [line("aaaaaaaa", None, message="x" * 1000)], message="y" * 100)
    assert len(found["message"]) == MESSAGE_LENGTH


def test_files_that_are_not_times_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "lines.parquet"
    with pytest.raises(MetabenchError, match="no times"):
        read_times(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(MetabenchError, match="cannot be read"):
        read_times(path)
    pq.write_table(pa.table({"cell": ["a"]}), path)
    with pytest.raises(MetabenchError, match="version none, expected 1"):
        read_times(path)
