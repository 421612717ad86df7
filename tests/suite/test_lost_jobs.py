"""What is known of the attempts at a cell becomes its rows, whatever is left of their notes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metabench.cli.app import app
from metabench.results.store import read_rows
from metabench.suite.cluster.scheduler_requests import Requests
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.journal import Journal
from metabench.suite.run.lock import lock_file
from metabench.suite.run.lost import (
    MOST_ATTEMPTS,
    attempt_at,
    attempts_file,
    endings,
    is_exhausted,
    lost_rows,
    note_attempt,
    note_ending,
    own_endings,
    times_lost,
)
from metabench.suite.run.memory_limit import Killed
from tests.suite.test_supervise import finished


@pytest.fixture
def cell() -> Cell:
    toy = {"problem": "toy_1d", "methods": ["none"]}
    return plan(load_suite({"name": "lost", "seeds": [0, 1], "experiments": {"toy": toy}})).cells[0]


@pytest.mark.parametrize(
    ("notes", "status", "words"),
    [
        ("exit 137", "error", "was killed (SIGKILL)"),
        ("exit 139", "error", "was ended by SIGSEGV"),
        ("exit 2", "error", "exited with status 2"),
        ("", "error", "ended without a word"),
        ("exit", "error", "ended without a word"),
        ('{"attempt": 2, "ho', "error", "ended without a word"),
    ],
)
def test_an_attempt_that_began_says_how_it_ended(
    cell: Cell, tmp_path: Path, notes: str, status: str, words: str
) -> None:
    out = tmp_path / "rows.parquet"
    note_attempt(out, 1)
    with attempts_file(out).open("a", encoding="utf-8") as file:
        file.write(f"{notes}\n")
    rows = lost_rows(cell, out)
    assert [row["seed"] for row in rows] == [0, 1] and {row["status"] for row in rows} == {status}
    assert all("attempt 1" in row["message"] and words in row["message"] for row in rows)


def test_a_job_that_never_began_is_a_row_too(cell: Cell, tmp_path: Path) -> None:
    (row, _) = lost_rows(cell, tmp_path / "rows.parquet")
    assert row["status"] == "error" and "no attempt at it began" in row["message"]


def test_the_first_attempt_of_a_run_forgets_those_of_earlier_runs(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    for _ in range(2):
        for attempt in (1, 2):
            note_attempt(out, attempt)
    assert [json.loads(line)["attempt"] for line in attempts_file(out).read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ("OUT_OF_MEMORY", "oom", "ran out of memory"),
        ("TIMEOUT", "timeout", "passed the scheduler's time limit"),
        ("NODE_FAIL", "error", "job 7 of the scheduler: NODE_FAIL"),
        ("CANCELLED by 0", "error", "job 7 of the scheduler: CANCELLED by 0"),
    ],
)
def test_the_schedulers_word_counts(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, status: str, words: str
) -> None:
    sacct = tmp_path / "sacct"
    sacct.write_text(f"#!/bin/sh\necho '{state}'\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    out = tmp_path / "rows.parquet"
    note_attempt(out, 1)
    (row, _) = lost_rows(cell, out)
    assert row["status"] == status and words in row["message"]


def test_the_last_attempt_runs_nothing_writes_rows_and_counts(cell: Cell, tmp_path: Path) -> None:
    spec, out = tmp_path / "cell.json", tmp_path / "rows.parquet"
    spec.write_text(cell.to_json())
    # Of mishaps the next run tries again: once.
    for times in (1, 1, 2, 2):
        arguments = ["run", "--spec", str(spec), "--out", str(out), "--attempt", str(MOST_ATTEMPTS + 1)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert times_lost(out) == times and not attempts_file(out).exists()
    rows = read_rows(out).to_pylist()
    assert [row["status"] for row in rows] == ["error", "error"]
    assert all("no attempt at it began" in row["message"] for row in rows)


def test_a_count_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    out.with_suffix(".lost").write_text("many")
    assert times_lost(out) == 0


def left(out: Path, **said: object) -> None:
    """Write the lock that an attempt leaves that is killed."""
    lock_file(out).write_text(json.dumps({"host": "node7", "machine": "node7", "pid": 1, **said}))


def test_what_was_last_seen_tells_memory_from_a_mishap(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabench.suite.run.lock.STALE_SECONDS", 0.1)
    out = tmp_path / "rows.parquet"
    for peak, status, words in ((9 << 30, "oom", "when it took 9 GiB of the 10 GiB"), (1 << 30, "error", "last seen with 1 GiB of 10 GiB")):
        note_attempt(out, 1)
        left(out, peak_bytes=peak, limit_bytes=10 << 30)
        (ending,) = endings(out)
        assert (ending.status, ending.mishap) == (status, status == "error") and words in ending.words
        # The next attempt takes the lock over, and what it said stays known.
        with attempt_at(out, 2):
            assert endings(out)[0] == ending
            note_ending(out, Killed("oom", "the process was killed"))
            assert own_endings(out) == 1 + (status == "oom")


def test_a_job_is_given_up_after_two_endings_of_its_own_or_four_in_all(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    for codes, exhausted in (((1,), False), ((1, 1), True), ((143, 1), False), ((143, 1, 137, 1), True), ((143, 143, 143), False)):
        for attempt, code in enumerate(codes, 1):
            note_attempt(out, attempt)
            with attempts_file(out).open("a", encoding="utf-8") as file:
                file.write(f"exit {code}\n")
        assert is_exhausted(out, len(codes) + 1) == exhausted, codes
    assert is_exhausted(out, 5) and not is_exhausted(out, 1)


def test_more_is_asked_for_after_what_ran_out_and_not_after_mishaps(cell: Cell, tmp_path: Path) -> None:
    suite = {"name": "lost", "results": str(tmp_path), "predict": False, "experiments": {"toy": {"problem": "toy_1d", "methods": ["none"]}}}
    planned = plan(load_suite(suite))
    asks, out = Requests(planned, lambda: False, 1), planned.row_file(planned.cells[0])
    out.parent.mkdir(parents=True)
    first = asks.memory_mb(planned.cells[0], 1), asks.runtime_minutes(planned.cells[0], 1)
    for state, memory, minutes in (("oom", 2, 1), ("timeout", 1, 2), ("error", 1, 1)):
        note_attempt(out, 1)
        note_ending(out, Killed(state, "over"))
        asked = asks.memory_mb(planned.cells[0], 2), asks.runtime_minutes(planned.cells[0], 2)
        assert asked == (memory * first[0], minutes * first[1])


def test_rows_of_finished_seeds_stay(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    Journal(cell, out).add(finished(cell, 0))
    note_attempt(out, 1)
    assert [row["status"] for row in lost_rows(cell, out)] == ["ok", "error"]
