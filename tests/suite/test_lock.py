"""One process at a time on a row file, whatever became of the one before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from waiting import wait_until

from metabench.suite.run import lock as locks
from metabench.suite.run.lock import (
    held,
    is_abandoned,
    is_stale,
    lock_file,
    machine,
    read_lock,
    remove_stale,
    run_identity,
)

HOLDING = """
import sys, time
from pathlib import Path
from metabench.suite.run.lock import held
with held(Path(sys.argv[1])) as lock, lock.beating():
    print("held", flush=True)
    time.sleep(600)
"""


def held_elsewhere(out: Path) -> subprocess.Popen[str]:
    """Return a process that holds the lock of a file."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_there_while_it_is_held_and_says_who_holds_it(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    with held(out) as lock:
        said = read_lock(lock_file(out))
        assert said is not None and (said["pid"], said["machine"]) == (os.getpid(), machine())
        assert not lock.waited and not is_stale(said, 0.0)
        lock.doing = ("seed 0: training", 3, 10)
        lock.write()
        said = read_lock(lock_file(out))
        assert said is not None and (said["stage"], said["done"], said["total"]) == lock.doing
    assert os.listdir(tmp_path) == []


def test_who_comes_second_waits_for_the_first(tmp_path: Path) -> None:
    out, told, order = tmp_path / "rows.parquet", list[str](), list[str]()
    process = held_elsewhere(out)

    def second() -> None:
        with held(out, told.append) as lock:
            order.append(f"held, waited {lock.waited}")

    thread = threading.Thread(target=second)
    thread.start()
    wait_until(lambda: bool(told))
    assert f"process {process.pid}" in told[0]
    time.sleep(1.2)
    assert not order
    process.kill()
    process.wait()
    thread.join(timeout=30)
    # Killed, it left its lock, which is taken over at once.
    assert order == ["held, waited True"] and len(told) == 1
    assert os.listdir(tmp_path) == []


def test_a_lock_of_another_machine_is_stale_once_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(locks, "_LOOK_SECONDS", 0.05)
    out = tmp_path / "rows.parquet"
    said = {"machine": "elsewhere", "host": "elsewhere", "pid": 1, "job": ""}
    stop = threading.Event()

    def beat() -> None:
        number = 0
        while not stop.wait(0.2):
            number += 1
            # Written in the past of this machine's clock: what counts is that it changes.
            lock_file(out).write_text(json.dumps(said | {"at": number}))

    lock_file(out).write_text(json.dumps(said))
    beating = threading.Thread(target=beat)
    beating.start()
    ended: list[float] = []

    def take() -> None:
        with held(out) as lock:
            ended.append(time.monotonic())
            assert lock.before["machine"] == "elsewhere"

    taking = threading.Thread(target=take)
    taking.start()
    time.sleep(3.0)
    assert not ended
    stop.set()
    beating.join()
    silent_since = time.monotonic()
    taking.join(timeout=30)
    assert ended and ended[0] - silent_since > 1.5


@pytest.mark.parametrize(
    ("answer", "stale"),
    [("echo RUNNING", False), ("echo PENDING", False), ("echo COMPLETED", True), ("echo PREEMPTED", True), ("exit 1", False),
     ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True)],
)  # fmt: skip
def test_the_scheduler_knows_whether_a_job_holds_its_lock(
    answer: str, stale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n{answer}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert is_stale({"machine": "elsewhere", "pid": 1, "job": "7"}, 0.0) == stale


def test_an_id_that_is_used_again_is_another_process() -> None:
    said = {"machine": machine(), "pid": os.getpid(), "born": "1"}
    assert is_stale(said, 0.0)


def test_a_lock_that_another_took_over_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    with held(out) as lock:
        lock_file(out).write_text(json.dumps({"machine": "elsewhere", "pid": 1, "born": "2"}))
        lock.write()
        assert read_lock(lock_file(out)) == {"machine": "elsewhere", "pid": 1, "born": "2"}
    assert lock_file(out).exists() and remove_stale(lock_file(out)) and not remove_stale(lock_file(out))


def test_what_a_kill_left_of_a_write_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "mixflow-12345678.parquet"
    for name in (".mixflow-12345678.parquet.abc.part", ".mixflow-12345678-seed0.checkpoint.abc.part", ".mixflow-1.parquet.abc.part"):
        (tmp_path / name).touch()
    with held(out):
        pass
    assert os.listdir(tmp_path) == [".mixflow-1.parquet.abc.part"]


def test_a_job_whose_run_is_gone_is_known() -> None:
    run = json.loads(run_identity())
    assert not is_abandoned({"run": json.dumps(run)}) and not is_abandoned({}) and not is_abandoned({"run": "{"})
    assert is_abandoned({"run": json.dumps(run | {"born": "1"})})
    assert not is_abandoned({"run": json.dumps(run | {"machine": "elsewhere", "born": "1"})})
