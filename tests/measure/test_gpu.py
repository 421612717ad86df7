"""The devices of a machine without torch, and that each has one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_gpus import Machine, cut, gpu
from fake_gpus import machine as machine  # a fixture
from waiting import wait_until

from metabench.core.errors import MetabenchError
from metabench.measure import own_device as module
from metabench.measure.gpu import chosen, device_total, gpus, visible_gpus
from metabench.measure.own_device import own_device

HOLD = """
import sys, time
from metabench.measure.own_device import own_device
import os
with own_device("cuda", lambda words: print(words, flush=True)):
    print(os.environ["CUDA_VISIBLE_DEVICES"], "torch" in sys.modules, flush=True)
    sys.stdin.read()
"""


def holder() -> subprocess.Popen[str]:
    """Start a process that holds a device until its standard input closes."""
    return subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_devices_are_listed_with_name_and_memory(machine: Machine) -> None:
    machine.has([gpu(0), gpu(1, name="NVIDIA L4") | {"memory.total": 23034}])
    found = gpus()
    assert [(one.index, one.name, one.memory_bytes >> 20, one.is_slice) for one in found] == [
        ("0", "NVIDIA A100-SXM4-40GB", 40960, False),
        ("1", "NVIDIA L4", 23034, False),
    ]
    assert found[0].uuid == gpu(0)["uuid"]


def test_slices_are_devices_and_the_gpu_that_they_are_cut_from_is_none(machine: Machine) -> None:
    machine.has([cut(0, 2), gpu(1), cut(2, 0)])
    found = gpus()
    assert [(one.index, one.is_slice) for one in found] == [("0:0", True), ("0:1", True), ("1", False)]
    assert found[0].uuid.startswith("MIG-") and found[0].card == gpu(0)["uuid"]
    assert found[0].memory_bytes == 20 << 30 and found[0].name.endswith("MIG 3g.20gb")


def test_a_driver_that_knows_no_slices_still_lists_its_gpus(machine: Machine) -> None:
    old = [{name: value for name, value in gpu(0).items() if name != "mig.mode.current"}]
    machine.has(old)
    assert [one.index for one in gpus()] == ["0"]


def test_without_a_driver_none_is_known_and_nothing_is_locked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(2, fails=True)
    assert gpus() == [] and device_total() == 1
    monkeypatch.setenv("PATH", str(machine.folder))
    assert gpus() == [] and device_total() == 1
    with own_device("cuda") as found:
        assert found is None
    assert not (machine.folder / "locks").exists()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1", "2:0", "2:1"]),
        ("", []),
        ("1", ["1"]),
        ("1, 0", ["1", "0"]),
        ("0,9,1", ["0"]),  # CUDA ends there, too
        ("-1,0", []),
        ("NoDevFiles", []),
        ("GPU-00000001", ["1"]),
        ("GPU-00000001-aaaa-bbbb-cccc-0123456789ab,0", ["1", "0"]),
        ("MIG-00000002-0001-bbbb-cccc-0123456789ab", ["2:1"]),
        ("2", ["2:0", "2:1"]),
        ("GPU-00000002", ["2:0", "2:1"]),
        ("0,0", ["0"]),
    ],
)
def test_what_a_scheduler_made_visible_is_respected(machine: Machine, visible: str | None, expected: list[str]) -> None:
    machine.has([gpu(0), gpu(1), cut(2, 2)])
    assert [one.index for one in chosen(gpus(), visible)] == expected


def test_in_a_job_of_a_scheduler_only_its_device_is_locked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert device_total() == 1
    with own_device("cuda") as found:
        assert found is not None and found.index == "2"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == found.uuid
        assert [one.index for one in visible_gpus()] == ["2"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_cpu_locks_nothing_and_asks_for_nothing(machine: Machine) -> None:
    with own_device("cpu") as found:
        assert found is None
    assert machine.asked() == [] and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_four_processes_on_four_devices_have_one_each_and_a_fifth_waits(machine: Machine) -> None:
    machine.has(4)
    processes = [holder() for _ in range(4)]
    try:
        assert sorted(map(first_line, processes)) == [f"{gpu(index)['uuid']} False" for index in range(4)]
        fifth = holder()
        processes.append(fifth)
        assert first_line(fifth) == "waiting for a GPU: other processes have 0, 1, 2, 3"
        # However it ends: the kernel frees what it held.
        processes[2].send_signal(signal.SIGKILL)
        processes[2].wait()
        freed = first_line(fifth)
        assert freed.endswith(" False") and freed.startswith("GPU-")
        assert fifth.poll() is None
    finally:
        end(*processes)


def test_slices_are_locked_one_by_one(machine: Machine) -> None:
    machine.has([cut(0, 2)])
    processes = [holder() for _ in range(2)]
    try:
        found = sorted(map(first_line, processes))
        assert [line.split()[0] for line in found] == [one["uuid"] for one in cut(0, 2)["slices"]]
    finally:
        end(*processes)


def test_a_device_is_free_again_after_the_block_and_waiting_is_said_once(machine: Machine) -> None:
    machine.has(1)
    first = holder()
    first_line(first)
    told: list[str] = []
    looks: list[int] = []

    def release() -> None:
        wait_until(lambda: len(looks) > 2)
        end(first)

    thread = threading.Thread(target=release)
    thread.start()
    with own_device("cuda", told.append, lambda: looks.append(1)) as found:
        assert found is not None
    thread.join()
    assert told == ["waiting for a GPU: other processes have 0"] and len(looks) > 2
    with own_device("cuda", told.append):
        pass
    assert len(told) == 1


def test_a_block_within_a_block_takes_no_second_device(machine: Machine) -> None:
    with own_device("cuda") as outer, own_device("cuda") as inner:
        assert outer is not None and inner is None


def test_a_process_that_was_forked_keeps_the_device_while_it_lives(machine: Machine) -> None:
    """A cell's process may outlive the one that started it by a moment; nobody else may time there meanwhile."""
    machine.has(1)
    reading, writing = os.pipe()
    with own_device("cuda"):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    os.close(reading)
    second = holder()
    try:
        assert first_line(second).startswith("waiting")
        os.close(writing)
        os.waitpid(child, 0)
        assert first_line(second).startswith("GPU-")
    finally:
        end(second)


def test_programs_that_a_process_starts_do_not_keep_it(machine: Machine) -> None:
    machine.has(1)
    with own_device("cuda"):
        other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    begun = time.monotonic()
    with own_device("cuda"):
        assert time.monotonic() - begun < 30
    other.kill()
    other.communicate()


def test_locks_are_for_all_users_and_a_closed_folder_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with own_device("cuda"):
        pass
    folder = machine.folder / "locks"
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o644]
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv(module.FOLDER, str(blocked / "locks"))
    with pytest.raises(MetabenchError, match="name another folder in METABENCH_GPU_LOCKS"), own_device("cuda"):
        pass
    monkeypatch.delenv(module.FOLDER)
    # Another user's, who closed it: the next place is taken.
    monkeypatch.setattr(module, "_PLACES", (blocked / "locks", tmp_path / "own"))
    with own_device("cuda") as found:
        assert found is not None
    assert list((tmp_path / "own").iterdir())
