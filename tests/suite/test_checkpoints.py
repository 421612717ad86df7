"""A cell whose run is interrupted goes on from its checkpoint, and its row is that of a run without interruption."""

from __future__ import annotations

import dataclasses
import itertools
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metabench.measure.kernels import runs
from metabench.results.store import read_rows, rows_of
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell


class Interrupted(BaseException):
    """What a scheduler's signal is to a process."""


def cell(method: str, minutes: float = 1e-12) -> Cell:
    suite = {
        "name": "saved",
        "seeds": [0, 1],
        "dtype": "float64",
        "checkpoint_minutes": minutes,
        "measure": {"error_windows": 0, "time_repeats": 1},
        "kernels": "portable" if runs("portable") else "native",
        "experiments": {"toy": {"problem": "regularisation", "methods": [method], "outer_steps": 10, "inner_steps": [3]}},
    }
    return plan(load_suite(suite)).cells[0]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save as often as asked, however long that takes."""
    monkeypatch.setattr("metabench.training.checkpoint._MOST_SHARE", 0)


def silent(*progress: object) -> None:
    """Report nothing."""


def stopping(seed: int, at: int) -> Any:
    """Return a progress callback that interrupts a seed's training at an outer step."""

    def progress(what: str, done: int, total: int) -> None:
        if what == f"seed {seed}: training" and done == at:
            raise Interrupted

    return progress


def result(row: dict[str, Any]) -> dict[str, Any]:
    """Return what of a row must not depend on an interruption."""
    curves = {name: curve for name, curve in row["curves"].items() if name != "time"}
    kept = ("seed", "status", "message", "quality", "metrics", "outer_loss", "meta_summary")
    return {name: row[name] for name in kept} | {"curves": curves}


@pytest.mark.parametrize("method", ["pes", "evograd", "mixflow"])
def test_an_interrupted_cell_goes_on_from_its_checkpoint(method: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    whole = [result(row) for row in run_cell(cell(method), silent)]
    finished = []
    with pytest.raises(Interrupted):
        for row in run_cell(cell(method), stopping(seed=1, at=8), out):
            finished.append(result(row))
    assert finished == whole[:1]
    # The first seed is done and keeps no checkpoint; the second was saved after its seventh outer step.
    assert {path.name for path in tmp_path.iterdir()} == {"rows-seed1.checkpoint", "rows.meta.pt"}
    steps: list[int] = []

    def noting(what: str, done: int, total: int) -> None:
        if what == "seed 1: training":
            steps.append(done)

    assert [result(row) for row in run_cell(cell(method), noting, out)] == whole
    assert steps[0] == 7 and steps[-1] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["rows.meta.pt"]


def test_a_checkpoint_of_another_cell_is_set_aside_and_the_row_says_so(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    with pytest.raises(Interrupted):
        list(run_cell(cell("t1t2"), stopping(seed=0, at=8), out))
    rows = list(run_cell(cell("mixflow"), silent, out))
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["message"].startswith("the checkpoint rows-seed0.checkpoint is of another run (")
    assert "and begun anew" in rows[0]["message"] and rows[1]["message"] == ""
    assert [path.name.rpartition("-")[0] for path in tmp_path.glob("*-*")] == ["rows-seed0.checkpoint.aside"]


def test_without_minutes_nothing_is_saved_unasked(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        list(run_cell(cell("t1t2", minutes=0), stopping(seed=0, at=8), tmp_path / "rows.parquet"))
    assert list(tmp_path.iterdir()) == []


PREEMPTED = """
import sys
from pathlib import Path
from metabench.suite.plan.cell import Cell
from metabench.suite.run.lock import held
from metabench.suite.run.supervise import supervise

def told(stage, done, total):
    print(stage, done, flush=True)

with held(Path(sys.argv[2])) as lock:
    supervise(Cell.from_json(Path(sys.argv[1]).read_text(), "spec"), Path(sys.argv[2]), told, lock=lock)
"""


@pytest.mark.slow  # imports torch six times
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cell_that_is_ended_five_times_has_the_rows_of_one_that_is_not(number: signal.Signals, tmp_path: Path) -> None:
    # Saved when asked to; a kill gives no time for that, and costs what was done since the last save.
    asked = number == signal.SIGTERM
    given = dataclasses.replace(cell("pes", minutes=0 if asked else 1e-4), outer_steps=600, seeds=[0])
    whole = [result(row) for row in run_cell(given, silent)]
    spec, out = tmp_path / "cell.json", tmp_path / "out" / "rows.parquet"
    out.parent.mkdir()
    spec.write_text(given.to_json())
    steps: list[list[int]] = []
    draw = random.Random(7)
    while not out.exists():
        steps.append([])
        wanted = draw.randrange(20, 120)
        with subprocess.Popen([sys.executable, "-c", PREEMPTED, str(spec), str(out)], stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                what, _, done = line.rpartition(" ")
                if what.endswith("training"):
                    steps[-1].append(int(done))
                    if len(steps) <= 5 and steps[-1][-1] - steps[-1][0] >= wanted:
                        run.send_signal(number)
                        break
    assert len(steps) == 6
    # No attempt begins before where an earlier one was when it was asked to end.
    for before, after in itertools.pairwise(steps):
        assert after[0] > 0 and (after[0] >= before[-1] or not asked)
    rows = rows_of(read_rows(out))
    assert [result(row) for row in rows] == whole
    assert [row["resumed"] for row in rows] == [5]
    assert sorted(path.name for path in out.parent.iterdir()) == ["rows.meta.pt", "rows.parquet"]
