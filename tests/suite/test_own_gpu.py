"""Cells, groups and what is prepared have a GPU each; whoever finds none free waits for one, and says so once."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gpus import Machine, cut, gpu
from fake_gpus import machine as machine  # a fixture
from waiting import wait_until

from metabench.core.types import Progress
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import Plan
from metabench.suite.run.lock import held, read_lock
from metabench.suite.run.supervise import supervise
from tests.suite.test_supervise import ENVIRONMENT, finished, silent

CELL = """
import json, os, sys, time
from pathlib import Path
from metabench.suite.plan.cell import Cell
from metabench.suite.run.rows import base_row
from metabench.suite.run.supervise import supervise
cell, name, folder = Cell.from_json(sys.argv[1], "test"), sys.argv[2], Path(sys.argv[3])
def run(cell, progress):
    (folder / name).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while not (folder / "go").exists():
        time.sleep(0.02)
    for seed in cell.seeds:
        yield base_row(cell, seed, json.loads(sys.argv[4])) | {"status": "ok", "message": ""}
supervise(cell, folder / f"{name}.parquet", lambda *progress: None, run)
"""


@pytest.fixture
def on_gpu(cell: Cell) -> Cell:
    return dataclasses.replace(cell, device="cuda")


def started(cell: Cell, names: str, folder: Path) -> list[subprocess.Popen[str]]:
    """Start a cell for each letter; each writes what it sees and goes on when there is a file `go`."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CELL, cell.to_json()]
    return [
        subprocess.Popen([*command, name, str(folder), json.dumps(ENVIRONMENT)], stderr=subprocess.PIPE, text=True) for name in names
    ]


def seen(folder: Path, names: str) -> list[str]:
    return [(folder / name).read_text() for name in names if (folder / name).exists()]


def test_four_cells_on_four_devices_run_at_once_each_on_its_own(machine: Machine, on_gpu: Cell, tmp_path: Path) -> None:
    machine.has([gpu(0), gpu(1), cut(2, 2)])
    folder = tmp_path / "cells"
    processes = started(on_gpu, "abcd", folder)
    wait_until(lambda: len(seen(folder, "abcd")) == 4)
    assert sorted(seen(folder, "abcd")) == sorted([gpu(0)["uuid"], gpu(1)["uuid"], *(one["uuid"] for one in cut(2, 2)["slices"])])
    (folder / "go").write_text("")
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert all((folder / f"{name}.parquet").exists() for name in "abcd")


def test_of_two_cells_on_one_device_the_second_waits_and_says_so_once(machine: Machine, on_gpu: Cell, tmp_path: Path) -> None:
    machine.has(1)
    folder = tmp_path / "cells"
    (first,) = started(on_gpu, "a", folder)
    wait_until(lambda: len(seen(folder, "a")) == 1)
    (second,) = started(on_gpu, "b", folder)
    assert second.stderr is not None
    assert second.stderr.readline() == f"{folder / 'b.parquet'}: waiting for a GPU: other processes have 0\n"
    assert not seen(folder, "b")
    # Killed with its parent: the lock is free.
    first.kill()
    first.communicate()
    wait_until(lambda: len(seen(folder, "b")) == 1)
    (folder / "go").write_text("")
    assert second.communicate()[1] == "" and second.returncode == 0
    assert not (folder / "a.parquet").exists() and (folder / "b.parquet").exists()


def test_a_cell_on_a_cpu_sees_what_was_visible_before(
    machine: Machine, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found: list[str] = []

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        progress(os.environ["CUDA_VISIBLE_DEVICES"], 0, 1)
        yield from (finished(cell, seed) for seed in cell.seeds)

    supervise(cell, tmp_path / "rows.parquet", lambda stage, done, total: found.append(stage), run)
    supervise(
        dataclasses.replace(cell, device="cuda"),
        tmp_path / "others.parquet",
        lambda stage, done, total: found.append(stage),
        run,
    )
    assert found == ["1", gpu(1)["uuid"]] and os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_the_lock_of_a_cell_lives_while_it_waits_for_a_gpu(
    machine: Machine, on_gpu: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has(1)
    monkeypatch.setattr("metabench.suite.run.supervise.BEAT_SECONDS", 0.0)
    out, told = tmp_path / "rows.parquet", dict[str, Any]()
    holding, waits = threading.Event(), threading.Event()

    def hold() -> None:
        from metabench.measure.gpu import visible_gpus
        from metabench.measure.own_device import _taken

        lock = _taken(visible_gpus()[0])
        assert lock is not None
        holding.set()
        waits.wait(60)
        os.close(lock)

    def run(cell: Cell, progress: Progress) -> Iterator[dict[str, Any]]:
        yield from (finished(cell, seed) for seed in cell.seeds)

    def watch() -> None:
        wait_until(lambda: (read_lock(out.with_suffix(".lock")) or {}).get("stage") == "waiting for a GPU")
        told.update(read_lock(out.with_suffix(".lock")) or {})
        waits.set()

    threads = [threading.Thread(target=one) for one in (hold, watch)]
    threads[0].start()
    holding.wait(60)
    with held(out) as lock:
        threads[1].start()
        supervise(on_gpu, out, silent, run, lock=lock)
    for thread in threads:
        thread.join()
    assert told["stage"] == "waiting for a GPU" and told["at"] > told["since"]


def test_a_group_has_one_device_for_all_its_processes(
    machine: Machine, planned: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metabench.suite.rounds import time_group as module

    machine.has(2)
    (group,) = planned(methods=["t1t2", "unrolled"]).groups
    cells = tuple(dataclasses.replace(cell, device="cuda") for cell in group.cells)
    found: list[str] = []
    monkeypatch.setattr(module, "_peaks", lambda path: dict.fromkeys(cells[0].seeds, 100))
    monkeypatch.setattr(module, "room", lambda device, granted: (1 << 30, 0))
    monkeypatch.setattr(module, "_time_part", lambda *given: [])

    class Seen:
        def __init__(self, cell: Cell, worker: object) -> None:
            found.append(os.environ["CUDA_VISIBLE_DEVICES"])

        def end(self) -> None:
            pass

    monkeypatch.setattr(module, "Member", Seen)
    module.time_group(dataclasses.replace(group, cells=cells), silent)
    assert found == [gpu(0)["uuid"]] * 2 and "CUDA_VISIBLE_DEVICES" not in os.environ
