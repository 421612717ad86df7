"""Whatever ends a cell's process, the cell has a row for every seed; whoever stops the run, nothing is left behind."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from waiting import running, wait_until

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.pictures import Picture
from metabench.core.types import Progress
from metabench.results.store import read_rows, rows_of
from metabench.suite.plan.cell import Cell
from metabench.suite.run.journal import Journal, journal_file
from metabench.suite.run.lost import endings, note_attempt, times_lost
from metabench.suite.run.rows import base_row
from metabench.suite.run.supervise import Runner, supervise
from tests.suite.test_predictions import predicted

ENVIRONMENT = {
    "hardware": "a processor, 2 cores",
    "load_at_start": 0.5,
    "torch_version": "2.13.0",
    "python_version": "3.11",
    "platform": "Linux",
    "metabench_version": "0.1.0",
    "git_commit": "",
    "lock_hash": "",
}


def finished(cell: Cell, seed: int) -> dict[str, Any]:
    return base_row(cell, seed, ENVIRONMENT) | {"status": "ok", "message": "", "quality": float(seed)}


def rows_then(act: Callable[[], None], after: int = 1) -> Runner:
    """Return a runner that finishes `after` seeds and then does `act`."""

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        for seed in cell.seeds[:after]:
            yield finished(cell, seed)
        act()

    return run


def statuses(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(row["seed"], row["status"]) for row in rows]


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def test_rows_come_back_and_are_written(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "rows.parquet"
    rows = supervise(cell, out, silent, rows_then(lambda: None, after=3))
    assert statuses(rows) == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert read_rows(out).select(["seed", "quality"]).to_pylist() == [
        {"seed": s, "quality": float(s)} for s in cell.seeds
    ]
    assert os.listdir(out.parent) == ["rows.parquet"]


def test_typed_options_numbers_that_are_not_finite_curves_and_pictures_come_through_the_pipe(cell: Cell, tmp_path: Path) -> None:
    curve = Curve((0.0, 1.0), (2.0, 0.1), "nat", "outer step", (1.0, 0.0), (3.0, 0.2), 4, log_y=True)
    numbers = {"residual": math.inf, "steps": 3.0}
    picture = Picture.of(torch.zeros((2, 3, 3), dtype=torch.uint8), "loss 0.5")

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        for seed in cell.seeds:
            yield finished(cell, seed) | {"diagnostics": numbers, "curves": {"loss": curve}, "pictures": {"image": picture}}

    out = tmp_path / "rows.parquet"
    supervise(cell, out, silent, run)
    for row in rows_of(read_rows(out)):
        assert (row["diagnostics"], row["curves"]) == (numbers, {"loss": curve})
        assert row["pictures"] == {"image": picture}
        for name in ("problem_options", "method_options"):
            expected = getattr(cell, name)
            assert row[name] == expected
            assert [type(value) for value in row[name].values()] == [type(value) for value in expected.values()]


def test_the_order_is_that_of_the_seeds(cell: Cell, tmp_path: Path) -> None:
    def backwards(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        yield from (finished(cell, seed) for seed in reversed(cell.seeds))

    assert [row["seed"] for row in supervise(cell, tmp_path / "rows.parquet", silent, backwards)] == cell.seeds


def test_not_a_number_survives_the_pipe(cell: Cell, tmp_path: Path) -> None:
    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        yield from (finished(cell, seed) | {"quality": float("nan"), "outer_loss": float("inf")} for seed in cell.seeds)

    row = supervise(cell, tmp_path / "rows.parquet", silent, run)[0]
    assert row["quality"] != row["quality"]
    assert row["outer_loss"] == float("inf")


def test_progress_is_told_stage_by_stage(cell: Cell, tmp_path: Path) -> None:
    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        for stage in ("training", "error"):
            for done in range(10_001):
                progress(stage, done, 10_000)
        yield from (finished(cell, seed) for seed in cell.seeds)

    told: list[tuple[str, int, int]] = []
    supervise(cell, tmp_path / "rows.parquet", lambda *what: told.append(what), run)
    assert {
        ("training", 0, 10_000),
        ("training", 10_000, 10_000),
        ("error", 0, 10_000),
        ("error", 10_000, 10_000),
    } <= set(told)
    assert len(told) < 1_000


def test_what_is_predicted_stands_in_every_row(cell: Cell, tmp_path: Path) -> None:
    runner = rows_then(lambda: os.kill(os.getpid(), signal.SIGKILL))
    foreseen = predicted(cell, peak_bytes=70, flops=9)
    supervise(cell, tmp_path / "rows.parquet", silent, runner, predicted=foreseen)
    table = read_rows(tmp_path / "rows.parquet").select(["predicted_bytes", "prediction_note", "flops", "status"])
    assert table.to_pylist() == [
        {"predicted_bytes": 70, "prediction_note": "", "flops": 9, "status": status} for status in ("ok", "error", "error")
    ]


def test_a_cell_without_a_prediction_runs_and_says_nothing_of_one(cell: Cell, tmp_path: Path) -> None:
    declared = dataclasses.replace(cell, device_bytes=1)
    foreseen = predicted(declared, peak_bytes=0, flops=0, message="no trace")
    rows = supervise(declared, tmp_path / "rows.parquet", silent, rows_then(lambda: None, after=3), predicted=foreseen)
    assert statuses(rows) == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert read_rows(tmp_path / "rows.parquet")["predicted_bytes"].to_pylist() == [None] * 3


def test_a_cell_that_is_predicted_not_to_fit_its_device_is_not_started(cell: Cell, tmp_path: Path) -> None:
    def never(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        raise AssertionError("it was started")

    declared = dataclasses.replace(cell, device_bytes=24 * 2**30)
    foreseen = predicted(declared, peak_bytes=65_712_999_629, flops=9)
    rows = supervise(declared, tmp_path / "rows.parquet", silent, never, predicted=foreseen)
    assert statuses(rows) == [(0, "unsupported"), (1, "unsupported"), (2, "unsupported")]
    assert {row["message"] for row in rows} == {"predicted to need 61.2 GiB, the device has 24 GiB"}
    written = read_rows(tmp_path / "rows.parquet")
    assert written["predicted_bytes"].to_pylist() == [65_712_999_629] * 3
    assert written["peak_bytes"].to_pylist() == [None] * 3


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_was_killed_near_its_limit_is_out_of_memory(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabench.suite.run.supervise.limit_bytes", lambda: 2**20)
    out = tmp_path / "rows.parquet"
    rows = supervise(cell, out, silent, rows_then(kill_itself))
    assert statuses(rows) == [(0, "ok"), (1, "oom"), (2, "oom")]
    assert "SIGKILL" in rows[1]["message"] and "of the 0.00098 GiB" in rows[1]["message"]
    assert rows[2]["message"].startswith("not run: seed 1 ended the cell's process")
    assert read_rows(out).column("status").to_pylist() == ["ok", "oom", "oom"]
    assert times_lost(out) == 0


def test_a_process_that_was_killed_far_from_its_limit_is_tried_again_once(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    for times in (1, 1, 2):
        rows = supervise(cell, out, silent, rows_then(kill_itself))
        assert statuses(rows) == [(0, "ok"), (1, "error"), (2, "error")]
        assert "SIGKILL" in rows[1]["message"] and "not for memory" in rows[1]["message"]
        assert times_lost(out) == times
    assert os.listdir(tmp_path) == ["rows.lost", "rows.parquet"] or os.listdir(tmp_path) == ["rows.parquet", "rows.lost"]


def test_a_kernel_that_killed_for_memory_is_believed(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((3, 4))
    monkeypatch.setattr("metabench.suite.run.supervise.oom_kills", lambda: next(counts))
    monkeypatch.setattr("metabench.suite.run.memory_limit.oom_kills", lambda: next(counts))
    rows = supervise(cell, tmp_path / "rows.parquet", silent, rows_then(kill_itself))
    assert statuses(rows) == [(0, "ok"), (1, "oom"), (2, "oom")] and "the kernel says" in rows[1]["message"]


def test_where_the_next_attempt_has_more_memory_there_are_no_rows_yet(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metabench.suite.run.supervise.limit_bytes", lambda: 2**20)
    out, seen = tmp_path / "rows.parquet", list[int]()
    note_attempt(out, 1)
    with pytest.raises(SystemExit) as ended:
        supervise(cell, out, silent, rows_then(kill_itself), more_memory=True)
    assert ended.value.code == 128 + signal.SIGKILL and not out.exists()
    assert [one.status for one in endings(out)] == ["oom"]

    def rest(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        progress(",".join(map(str, cell.seeds)), 0, 1)
        yield from (finished(cell, seed) for seed in cell.seeds)

    # The next attempt goes on with the seeds that have no rows.
    rows = supervise(cell, out, lambda stage, done, total: seen.extend(map(int, stage.split(","))), rest)
    assert seen == [1, 2] and statuses(rows) == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert not journal_file(out).exists()


def test_rows_of_another_source_are_not_gone_on_from(cell: Cell, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    Journal(cell, out).add(finished(cell, 0))
    assert set(Journal(cell, out).rows) == {0}
    other = dataclasses.replace(cell, limit_seconds=cell.limit_seconds + 1)
    assert not Journal(other, out).rows
    Journal(other, out).add(finished(other, 1))
    assert set(Journal(other, out).rows) == {1} and not Journal(cell, out).rows
    # A line cut short by a kill.
    text = journal_file(out).read_text()
    journal_file(out).write_text(text + text.splitlines()[1][:50])
    assert set(Journal(other, out).rows) == {1}


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_another_signal_is_an_error_that_names_it(cell: Cell, tmp_path: Path, number: signal.Signals) -> None:
    rows = supervise(cell, tmp_path / "rows.parquet", silent, rows_then(lambda: os.kill(os.getpid(), number)))
    assert statuses(rows) == [(0, "ok"), (1, "error"), (2, "error")]
    assert number.name in rows[1]["message"]


def test_an_exception_is_an_error_that_names_it(cell: Cell, tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    rows = supervise(cell, tmp_path / "rows.parquet", silent, rows_then(fail))
    assert statuses(rows) == [(0, "ok"), (1, "error"), (2, "error")]
    assert rows[1]["message"] == "ZeroDivisionError: by zero"


def test_a_process_that_leaves_early_is_an_error(cell: Cell, tmp_path: Path) -> None:
    exits = supervise(cell, tmp_path / "rows.parquet", silent, rows_then(lambda: os._exit(3)))
    assert exits[1]["message"] == "the process exited with status 3 before it was done"
    silent_end = supervise(cell, tmp_path / "rows.parquet", silent, rows_then(lambda: None))
    assert silent_end[1]["message"] == "the runner ended without a row for this seed"
    assert statuses(exits) == statuses(silent_end) == [(0, "ok"), (1, "error"), (2, "error")]


def test_a_process_that_hangs_past_the_limit_is_a_timeout(cell: Cell, tmp_path: Path) -> None:
    short = dataclasses.replace(cell, limit_seconds=0.2)
    first = finished(short, 0)
    pids: list[int] = []

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        progress(str(os.getpid()), 0, 1)
        yield first
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)

    rows = supervise(
        short, tmp_path / "rows.parquet", lambda stage, done, total: pids.append(int(stage)), run, grace=0.3
    )
    assert statuses(rows) == [(0, "ok"), (1, "timeout"), (2, "timeout")]
    assert rows[1]["message"].startswith("passed the cell's time limit of 0.2 s and did not stop within 0.3 s")
    assert not psutil.pid_exists(pids[0])


def test_what_the_process_started_ends_with_it(cell: Cell, tmp_path: Path) -> None:
    pids: list[int] = []

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        # It keeps the pipe open after the cell's own process has gone.
        grandchild = os.fork()
        if grandchild == 0:
            time.sleep(600)
        progress(str(grandchild), 0, 1)
        yield finished(cell, 0)
        os.kill(os.getpid(), signal.SIGKILL)

    rows = supervise(cell, tmp_path / "rows.parquet", lambda stage, done, total: pids.append(int(stage)), run)
    assert statuses(rows) == [(0, "ok"), (1, "error"), (2, "error")]
    wait_until(lambda: not running(pids[0]))


def test_a_users_mistake_is_raised_and_writes_nothing(cell: Cell, tmp_path: Path) -> None:
    def fail() -> None:
        raise MetabenchError("data set 'digits' is damaged")

    with pytest.raises(MetabenchError, match="data set 'digits' is damaged"):
        supervise(cell, tmp_path / "rows.parquet", silent, rows_then(fail))
    assert os.listdir(tmp_path) == []


def test_a_row_that_no_file_takes_says_so_and_the_others_stay(cell: Cell, tmp_path: Path) -> None:
    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        for seed in cell.seeds:
            yield finished(cell, seed) | ({"quality": "good"} if seed == 1 else {})

    rows = supervise(cell, tmp_path / "rows.parquet", silent, run)
    assert statuses(rows) == [(0, "ok"), (1, "error"), (2, "ok")]
    assert rows[1]["message"] == "the row: column 'quality' is 'good' (str), expected double"
    assert read_rows(tmp_path / "rows.parquet").num_rows == 3


def test_rows_that_cannot_be_written_are_a_users_mistake(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MetabenchError, match="cannot write"):
        supervise(cell, tmp_path / "file" / "rows.parquet", silent, rows_then(lambda: None, after=3))


def test_thread_pools_are_fixed_before_torch_is_imported(cell: Cell, tmp_path: Path) -> None:
    told: list[str] = []

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        progress(os.environ["OMP_NUM_THREADS"] + os.environ["OPENBLAS_NUM_THREADS"], 0, 1)
        yield from (finished(cell, seed) for seed in cell.seeds)

    before = dict(os.environ)
    supervise(
        dataclasses.replace(cell, threads=7),
        tmp_path / "rows.parquet",
        lambda stage, done, total: told.append(stage),
        run,
    )
    assert told == ["77"]
    assert dict(os.environ) == before


def test_signal_handlers_are_as_before(cell: Cell, tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    supervise(cell, tmp_path / "rows.parquet", silent, rows_then(lambda: None))
    assert ([signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before


HANGING = """
import os, signal, sys, time
from pathlib import Path
from metabench.suite.plan.cell import Cell
from metabench.suite.run.supervise import supervise

def run(cell, progress):
    progress(str(os.getpid()), 0, 1)
    time.sleep(600)
    yield {}

def told(stage, done, total):
    print(stage, flush=True)

# As a terminal leaves them: whoever runs the tests may ignore some, as nohup does.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
if len(sys.argv) > 3:
    signal.signal(int(sys.argv[3]), signal.SIG_IGN)
supervise(Cell.from_json(Path(sys.argv[1]).read_text(), "spec"), Path(sys.argv[2]), told, run)
"""


@pytest.fixture
def ignored() -> tuple[signal.Signals, ...]:
    """Signals that the supervising process ignores from its start."""
    return ()


@pytest.fixture
def hanging(
    cell: Cell, tmp_path: Path, ignored: tuple[signal.Signals, ...]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A supervising process, and the id of its cell's process, which sleeps."""
    (tmp_path / "spec.json").write_text(cell.to_json())
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", HANGING, str(tmp_path / "spec.json"), str(tmp_path / "out" / "rows.parquet")]
    command += [str(int(number)) for number in ignored]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert running(child)
        yield process, child
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_run_leaves_no_file_and_no_process(
    hanging: tuple[subprocess.Popen[str], int], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process, child = hanging
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert not running(child)
    assert os.listdir(tmp_path / "out") == []


HALVED = """
import os, sys, time
from pathlib import Path
from metabench.suite.plan.cell import Cell
from metabench.suite.run.supervise import supervise
from metabench.training import interruption

def run(cell, progress):
    with interruption.saving():
        progress.pipe.write(b'{"progress": ["begun", 0, 1]}\\n{"progress": ["wh')
        progress.pipe.flush()
        while not interruption.asked():
            time.sleep(0.01)
        progress.pipe.write(b'ole", 1, 1]}\\n')
        progress.pipe.flush()
        raise interruption.Interrupted("after 1 outer steps")
    yield {}

supervise(Cell.from_json(Path(sys.argv[1]).read_text(), "spec"), Path(sys.argv[2]), lambda *told: print(*told, flush=True), run)
"""


def test_a_signal_may_come_in_the_middle_of_what_is_told(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(cell.to_json())
    command = [sys.executable, "-c", HALVED, str(tmp_path / "spec.json"), str(tmp_path / "out" / "rows.parquet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun 0 1\n"
        process.terminate()
        assert process.stdout.read() == "whole 1 1\n"
    assert process.returncode == 143 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("ignored", [(signal.SIGHUP,)])
def test_a_run_under_nohup_outlives_its_terminal(hanging: tuple[subprocess.Popen[str], int]) -> None:
    process, child = hanging
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    assert running(child)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert not running(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_killed_run_leaves_no_file_and_no_process(hanging: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    process, child = hanging
    process.kill()
    process.wait(timeout=60)
    wait_until(lambda: not running(child))
    assert os.listdir(tmp_path / "out") == []


def test_the_real_runner_gives_a_row_for_each_seed(cell: Cell, tmp_path: Path) -> None:
    quick = dataclasses.replace(
        cell, measure=cell.measure | {"time_budget": 0.01, "time_repeats": 3, "error_windows": 1}
    )
    rows = supervise(quick, tmp_path / "rows.parquet", silent)
    assert statuses(rows) == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert all(row["peak_bytes"] > 0 and row["time_median_s"] > 0 for row in rows)


def test_a_trained_cell_without_outer_steps_says_so_in_its_rows(cell: Cell, tmp_path: Path) -> None:
    quick = dataclasses.replace(cell, outer_steps=0, seeds=[0], measure=cell.measure | {"time_repeats": 1, "error_windows": 0})
    (row,) = supervise(quick, tmp_path / "rows.parquet", silent)
    assert (row["status"], row["message"]) == ("error", "0 outer steps train nothing: expected 1 or more")


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a CUDA device")
def test_a_cell_for_a_device_that_is_not_there_is_unsupported(cell: Cell, tmp_path: Path) -> None:
    rows = supervise(dataclasses.replace(cell, device="cuda"), tmp_path / "rows.parquet", silent)
    assert statuses(rows) == [(0, "unsupported"), (1, "unsupported"), (2, "unsupported")]
    (message,) = {row["message"] for row in rows}
    built = f"device 'cuda': this torch, {torch.__version__}, is built without CUDA"
    assert message == ("device 'cuda': torch finds 0 CUDA devices here" if torch.backends.cuda.is_built() else built)
    assert {row["hardware"] for row in rows} == {"no CUDA device"}
    assert rows_of(read_rows(tmp_path / "rows.parquet"))[0]["device"] == "cuda"
