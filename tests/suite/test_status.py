"""How far a suite is, while it runs and after whatever ended it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metabench.cli.app import app
from metabench.results.store import write_rows
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.run.lock import lock_file, run_identity
from metabench.suite.run.lost import note_attempt
from metabench.suite.run.status import DONE, QUEUED, RUNNING, STALE, WAITING, status
from tests.suite.test_lock import held_elsewhere
from tests.suite.test_supervise import finished

METHODS = ["none", "unrolled", "mixflow", "t1t2", "forward"]


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    """A suite of which one cell is done, one failed, one is held by a process that is gone, one lost an attempt and one waits."""
    toy = {"problem": "toy_1d", "methods": METHODS}
    suite = {"name": "far", "seeds": [0, 1], "aa": False, "results": str(tmp_path), "experiments": {"toy": toy}}
    found = plan(load_suite(suite))
    found.write()
    done, failed, gone, lost, _ = found.cells
    write_rows(found.row_file(done), [finished(done, seed) | {"measured_s": 3.0} for seed in done.seeds])
    rows = [finished(failed, seed) | {"measured_s": 5.0} for seed in failed.seeds]
    write_rows(found.row_file(failed), [rows[0], rows[1] | {"status": "oom", "message": "too large"}])
    run = json.loads(run_identity())
    lock_file(found.row_file(gone)).write_text(json.dumps(run | {"born": "1", "host": "here", "since": 0}))
    note_attempt(found.row_file(lost), 1)
    return found


def test_each_cell_is_where_its_files_say(planned: Plan) -> None:
    found = status(planned)
    assert [one.state for one in found.cells] == [DONE, DONE, STALE, WAITING, WAITING]
    assert found.counts() == {DONE: 2, RUNNING: 0, QUEUED: 0, WAITING: 2, STALE: 1}
    assert [one.failed for one in found.cells] == [False, True, False, False, False]
    assert found.cells[1].message == "oom: too large"
    assert "which is gone" in found.cells[2].words
    assert found.cells[3].words.startswith("attempt 1: ended without a word")
    # Like cells took 6 and 10 seconds: three are left, one after another.
    assert found.seconds_left == pytest.approx(3 * 8.0)
    assert found.gpu_hours == 0


def test_what_runs_is_shown_with_where_and_how_far(planned: Plan, tmp_path: Path) -> None:
    out = planned.row_file(planned.cells[4])
    process = held_elsewhere(out)
    try:
        one = status(planned).cells[4]
        assert one.state == RUNNING and f"process {process.pid}" in one.words and not one.orphaned
    finally:
        process.kill()
        process.wait()
    assert status(planned).cells[4].state == STALE


def test_the_schedulers_queue_says_what_waits_and_why(planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho '12|PENDING|Resources|rule_run_cell_wildcards_toy_1d_x_y_forward_{planned.cells[4].hash}'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    one = status(planned).cells[4]
    assert (one.state, one.words) == (QUEUED, "job 12: PENDING (Resources)")


def metabench(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_the_command_prints_it_and_json_has_all(planned: Plan) -> None:
    shown = metabench("status", str(planned.suite_file))
    assert "far: 5 cells: 2 done, 2 waiting, 1 stale" in shown and "oom: too large" in shown and "24 s" in shown
    found: dict[str, Any] = json.loads(metabench("status", str(planned.suite_file), "--json"))
    assert found["counts"]["done"] == 2 and len(found["cells"]) == 5
    assert found["cells"][1]["statuses"] == {"ok": 1, "oom": 1}


def test_clean_removes_what_nobody_holds_and_ends_what_outlived_its_run(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = str(planned.suite_file)
    (planned.folder / ".results.parquet.xyz.part").touch()
    monkeypatch.setenv("METABENCH_RUN", run_identity())
    process = held_elsewhere(planned.row_file(planned.cells[4]))
    assert "1 stale locks removed, 1 left alone" in metabench("clean", suite)
    assert process.poll() is None and (planned.folder / ".results.parquet.xyz.part").exists()
    process.kill()
    process.wait()
    # A run that ended, and a job of it that did not.
    starter = [sys.executable, "-c", "from metabench.suite.run.lock import run_identity; print(run_identity())"]
    monkeypatch.setenv("METABENCH_RUN", subprocess.run(starter, capture_output=True, text=True, check=True).stdout.strip())
    assert "1 stale locks removed" in metabench("clean", suite)
    process = held_elsewhere(planned.row_file(planned.cells[4]))
    assert status(planned).cells[4].orphaned
    assert "1 jobs ended, 0 stale locks removed, 0 left alone" in metabench("clean", suite)
    process.wait(timeout=30)
    assert not list(planned.folder.rglob(".*.part"))
