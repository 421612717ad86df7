"""Cells of a batch run one after another, in one job; each has the rows that it has alone, whatever happens to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.measure.environment import torch_version
from metabench.results.schema import CELL_COLUMNS
from metabench.results.store import read_rows, rows_of
from metabench.suite.plan.batches import batches
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.plan.specs import read_batch, read_spec
from metabench.suite.run.batch import MOST_BATCH_ATTEMPTS, run_batch
from metabench.suite.run.lock import lock_file
from metabench.suite.run.lost import attempts_file, note_attempt, note_end
from tests.suite.conftest import SUITE
from tests.suite.test_supervise import finished

OF_TIME = ("_s", "_at")
OF_THE_PROCESS = ("load_at_start", "time_repeats")


@contextlib.contextmanager
def unseen(name: str) -> Iterator[Progress]:
    yield lambda stage, done, total: None


@pytest.fixture
def several(planned: Callable[..., Plan], tmp_path: Path) -> list[tuple[Cell, Path]]:
    """Four cells with their row files."""
    cells = planned(methods=["unrolled", "t1t2", "first_order", {"pes": {"pairs": 2}}]).cells
    return [(cell, tmp_path / "cells" / f"{cell.name}.parquet") for cell in cells]


def comparable(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a file without what any two runs differ in."""
    kept = [c.name for c in CELL_COLUMNS if not c.name.endswith(OF_TIME) and c.name not in OF_THE_PROCESS]
    rows = rows_of(read_rows(out))
    for row in rows:
        row["curves"] = {name: curve for name, curve in (row["curves"] or {}).items() if name != "time"}
    return [{name: row[name] for name in kept} for row in rows]


def test_rows_are_those_of_cells_that_run_alone(several: list[tuple[Cell, Path]], tmp_path: Path) -> None:
    for _, out in several:
        out.parent.mkdir(parents=True, exist_ok=True)
    # In a process of its own: this one has torch with its threads, which a fork does not survive.
    specs = tmp_path / "cells.jsonl"
    cells = [cell for cell, _ in several]
    specs.write_text("".join(json.dumps({"cell": c.name, "batch": "b", "spec": json.loads(c.to_json())}) + "\n" for c in cells))
    mark = tmp_path / "batches" / "b.json"
    command = [sys.executable, "-m", "metabench"]
    subprocess.run([*command, "batch", "--specs", str(specs), "--name", "b", "--out", str(mark)], check=True)
    for cell, out in several:
        alone = tmp_path / "alone.parquet"
        subprocess.run([*command, "run", "--spec", str(specs), "--cell", cell.name, "--out", str(alone)], check=True)
        assert comparable(out) == comparable(alone), cell.method
        assert {row["status"] for row in rows_of(read_rows(out))} <= {"ok", "unsupported"}
    assert json.loads(mark.read_text()).keys() == {cell.name for cell in cells}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".lock", ".journal", ".attempts", ".checkpoint")]


class Runs:
    """Stands in for what runs a cell, and does what it is told of some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.acts: dict[str, BaseException] = {}
        monkeypatch.setattr("metabench.suite.run.attempt.supervise", self.supervise)
        monkeypatch.setattr("metabench.suite.run.batch._import_once", lambda cell: None)

    def supervise(self, cell: Cell, out: Path, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        from metabench.results.store import write_rows

        self.ran.append(cell.method)
        if act := self.acts.get(cell.method):
            raise act
        own = {"cell": cell.hash, "code_hash": code_hash(cell), "torch_version": torch_version()}
        rows = [finished(cell, seed) | own for seed in cell.seeds]
        out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(out, rows)
        return rows


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, several: list[tuple[Cell, Path]]) -> Runs:
    for _, out in several:
        out.parent.mkdir(parents=True, exist_ok=True)
    return Runs(monkeypatch)


def test_what_is_done_stays_and_a_mishap_is_tried_again(several: list[tuple[Cell, Path]], runs: Runs, tmp_path: Path) -> None:
    mark = tmp_path / "mark.json"
    assert run_batch(several, mark, unseen) == Counter(ok=12)
    assert runs.ran == ["unrolled", "t1t2", "first_order", "pes"]
    runs.ran.clear()
    several[1][1].unlink()
    note_end(several[2][1], mishap=True)
    run_batch(several, mark, unseen)
    assert runs.ran == ["t1t2", "first_order"]


def test_one_mistake_costs_one_cell_and_in_the_end_it_is_a_row(several: list[tuple[Cell, Path]], runs: Runs, tmp_path: Path) -> None:
    mark = tmp_path / "mark.json"
    runs.acts["t1t2"] = MetabenchError("no such data")
    for attempt in (1, 2):
        with pytest.raises(MetabenchError, match=r"1 of 4 cells have no rows:\ntoy_1d/analytic/scalar/t1t2-.*: no such data"):
            run_batch(several, mark, unseen, attempt)
        assert not mark.exists()
    assert runs.ran == ["unrolled", "t1t2", "first_order", "pes", "t1t2"]
    assert run_batch(several, mark, unseen, 3) == Counter(ok=9, error=3)
    assert runs.ran.count("t1t2") == 2, "the third attempt writes how the others ended"
    message = rows_of(read_rows(several[1][1]))[0]["message"]
    assert message.startswith("the job was lost: attempt 1, 2 exited with status 2")
    assert mark.is_file()


def test_what_ends_the_job_ends_one_cell(several: list[tuple[Cell, Path]], runs: Runs, tmp_path: Path) -> None:
    mark = tmp_path / "mark.json"
    runs.acts["first_order"] = SystemExit(137)
    for attempt in (1, 2):
        with pytest.raises(SystemExit):
            run_batch(several, mark, unseen, attempt)
    del runs.acts["first_order"]
    assert run_batch(several, mark, unseen, 3) == Counter(ok=12)
    assert runs.ran == ["unrolled", "t1t2", "first_order", "first_order", "first_order", "pes"]
    assert not list(tmp_path.rglob("*.attempts")) and not list(tmp_path.rglob("*.lock"))


def test_a_new_run_forgets_the_attempts_of_the_last(several: list[tuple[Cell, Path]], runs: Runs, tmp_path: Path) -> None:
    for attempt in (1, 2, 3, 4):
        note_attempt(several[0][1], attempt)
    run_batch(several, tmp_path / "mark.json", unseen, 1)
    assert runs.ran[0] == "unrolled"


def test_the_last_attempt_runs_nothing(several: list[tuple[Cell, Path]], runs: Runs, tmp_path: Path) -> None:
    runs.acts["t1t2"] = SystemExit(143)
    with pytest.raises(SystemExit):
        run_batch(several, tmp_path / "mark.json", unseen, 1)
    found = run_batch(several, tmp_path / "mark.json", unseen, MOST_BATCH_ATTEMPTS + 1)
    assert found == Counter(ok=3, error=9) and runs.ran == ["unrolled", "t1t2"]
    assert not attempts_file(several[1][1]).exists()


def test_a_killed_batch_goes_on_after_the_cells_that_are_done(tmp_path: Path) -> None:
    made = plan(load_suite(SUITE | {"results": str(tmp_path), "batch": 8, "experiments": {"toy": {
        "problem": "toy_1d", "inner_steps": [3], "outer_steps": 40, "methods": ["unrolled", {"pes": {"pairs": 2}}],
    }}}))  # fmt: skip
    made.write()
    (batch,) = made.batches
    first, second = (made.row_file(cell) for cell in batch.cells)
    mark = made.batch_mark(batch)
    command = [sys.executable, "-m", "metabench", "batch", "--specs", str(made.specs), "--name", batch.name, "--out", str(mark)]
    job = subprocess.Popen([*command, "--attempt", "1"], start_new_session=True)
    try:
        wait_until(lambda: (first.is_file() and lock_file(second).is_file()) or job.poll() is not None, seconds=120)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    before = first.stat().st_mtime_ns
    subprocess.run([*command, "--attempt", "2"], check=True)
    assert first.stat().st_mtime_ns == before and second.is_file() and mark.is_file()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".lock", ".journal", ".attempts", ".part")]


def test_batches_are_of_one_experiment_and_one_process(planned: Callable[..., Plan]) -> None:
    cells = planned(methods=["unrolled", "t1t2", "pes"], inner_steps=[1, 2, 3]).cells
    assert batches(cells, 1) == ()
    assert [len(batch.cells) for batch in batches(cells, 4)] == [4, 4, 1]
    assert [cell for batch in batches(cells, 4) for cell in batch.cells] == list(cells)
    assert len({batch.name for batch in batches(cells, 4)}) == 3
    other = [dataclasses.replace(cell, experiment="other") if index > 4 else cell for index, cell in enumerate(cells)]
    assert [len(batch.cells) for batch in batches(other, 100)] == [5, 4]


def test_jobs_read_specs_and_refuse_what_is_not_there(tmp_path: Path) -> None:
    suite = SUITE | {"results": str(tmp_path), "batch": 2}
    made = plan(load_suite(suite | {"experiments": {"toy": SUITE["experiments"]["toy"] | {"methods": ["t1t2", "unrolled", "pes"]}}}))
    made.write()
    assert [read_spec(made.specs, cell.name) for cell in made.cells] == list(made.cells)
    for batch in made.batches:
        assert tuple(read_batch(made.specs, batch.name)) == batch.cells
    assert made.made(made.cells) == [made.batch_mark(batch) for batch in made.batches]
    assert made.log_file(made.cells[0]) == made.batch_mark(made.batches[0]).with_suffix(".log")
    with pytest.raises(MetabenchError, match="has no cell 'toy_1d/none'"):
        read_spec(made.specs, "toy_1d/none")
    with pytest.raises(MetabenchError, match="has no batch 'toy'"):
        read_batch(made.specs, "toy")
    with pytest.raises(MetabenchError, match="does not exist"):
        read_batch(tmp_path / "none.jsonl", "toy")
    name = made.cells[0].name
    made.specs.write_text(json.dumps({"cell": name})[:-1] + "\n")
    with pytest.raises(MetabenchError, match="a line is no JSON"):
        read_spec(made.specs, name)
