"""What is known of the attempts at a cell becomes its rows, whatever is left of their notes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metabench.cli.app import app
from metabench.results.store import read_rows
from metabench.suite.plan.cell import ATTEMPTS, Cell
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.lost import attempts_file, lost_rows, note_attempt, times_lost


@pytest.fixture
def cell() -> Cell:
    toy = {"problem": "toy_1d", "methods": ["none"]}
    return plan(load_suite({"name": "lost", "seeds": [0, 1], "experiments": {"toy": toy}})).cells[0]


@pytest.mark.parametrize(
    ("notes", "status", "words"),
    [
        ("exit 137", "oom", "was killed (SIGKILL)"),
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
    for times in (1, 2):
        arguments = ["run", "--spec", str(spec), "--out", str(out), "--attempt", str(ATTEMPTS + 1)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        assert times_lost(out) == times and not attempts_file(out).exists()
    rows = read_rows(out).to_pylist()
    assert [row["status"] for row in rows] == ["error", "error"]
    assert all("no attempt at it began" in row["message"] for row in rows)


def test_a_count_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    out.with_suffix(".lost").write_text("many")
    assert times_lost(out) == 0
