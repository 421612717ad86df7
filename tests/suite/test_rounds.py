"""Cells take turns, one at a time; whatever ends a cell's process, the others go on, and its lines say so."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from metabench.results.store import write_rows
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import Plan
from metabench.suite.rounds import member as members
from metabench.suite.rounds.member import Member
from metabench.suite.rounds.parts import parts
from metabench.suite.rounds.time_group import lost_group, time_group
from metabench.suite.rounds.turns import LEAST_ROUNDS, take_turns
from tests.suite.test_supervise import finished, silent

WORKER = '''"""Answers as a cell's process does, without torch, and does what the file `acts` says of its method."""
import json, os, sys, time
from pathlib import Path
here = Path(__file__).parent
method, turns, seed = json.loads(sys.stdin.readline())["method"], 0, None
acts = json.loads((here / "acts").read_text()).get(method, {})
for line in sys.stdin:
    request, begun = json.loads(line), time.time()
    what = next(iter(request))
    if what == "prepare":
        seed, turns = request["prepare"], 0
    turns += what == "turn"
    act = acts.get(f"{what} {turns}" if what == "turn" else what)
    if act == "die":
        os.kill(os.getpid(), 9)
    if act == "exit":
        sys.exit(3)
    if act == "hang":
        time.sleep(600)
    answer = {"failed": act} if act else {"seconds": 0.5, "calls": 2, "started_at": begun} if what == "turn" else {}
    with (here / "log").open("a") as log:
        log.write(json.dumps([what, method, seed, begun, time.time(), request[what]]) + "\\n")
    print(json.dumps(answer), flush=True)
'''


class Bench:
    """A group of three cells with two seeds, whose processes answer without torch."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        (self.group,) = plan.groups
        self.folder = folder
        for cell, file in zip(self.group.cells, self.group.row_files, strict=True):
            self.write_rows(cell, file, dict.fromkeys(cell.seeds, 1000))
        (folder / "worker.py").write_text(WORKER)
        self.act()

    def write_rows(self, cell: Cell, file: Path, peaks: dict[int, int | None]) -> None:
        write_rows(file, [finished(cell, seed) | {"peak_bytes": peak} for seed, peak in peaks.items()])

    def act(self, **acts: dict[str, str]) -> None:
        (self.folder / "acts").write_text(json.dumps(acts))
        (self.folder / "log").unlink(missing_ok=True)

    def time(self) -> list[dict[str, Any]]:
        lines = time_group(self.group, silent, worker=(sys.executable, str(self.folder / "worker.py")))
        methods = {cell.hash: cell.method for cell in self.group.cells}
        return [line | {"method": methods[line["cell"]]} for line in lines]

    def log(self) -> list[list[Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def bench(planned: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(planned(methods=["none", "t1t2", "unrolled"], seeds=[0, 1]), tmp_path)


ROUNDS = 15


def told(lines: list[dict[str, Any]]) -> dict[tuple[str, int], str]:
    return {(line["method"], line["seed"]): line["message"] for line in lines if line.get("message")}


def turns(lines: list[dict[str, Any]]) -> Counter[tuple[str, int]]:
    return Counter((line["method"], line["seed"]) for line in lines if not line.get("message"))


def test_every_cell_has_one_turn_per_round_and_one_works_at_a_time(bench: Bench) -> None:
    lines = bench.time()
    assert set(turns(lines).values()) == {ROUNDS} and len(turns(lines)) == 3 and not told(lines)
    assert {line["seed"] for line in lines} == {0}, "one seed: the others have the same shapes"
    orders = [tuple(line["method"] for line in lines if line["round"] == number) for number in range(ROUNDS)]
    assert all(set(order) == {"none", "t1t2", "unrolled"} for order in orders)
    assert len(set(orders)) > 1, "the order is redrawn"
    assert all(line["order"] == orders[line["round"]].index(line["method"]) for line in lines)
    assert all(len({line["core"] for line in lines if line["round"] == number}) == 1 for number in range(ROUNDS))
    if hasattr(os, "sched_getaffinity"):
        assert {line["core"] for line in lines} <= os.sched_getaffinity(0)
        assert [line["core"] for line in lines] == [entry[-1] for entry in bench.log() if entry[0] == "turn"]
    assert len({line["process"] for line in lines}) == 3
    spans = [(begun, ended) for what, _, _, begun, ended, _ in bench.log() if what == "turn"]
    assert len(spans) == 3 * ROUNDS
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(spans))


def test_the_order_is_that_of_the_group(bench: Bench) -> None:
    first, again = ([(line["cell"], line["round"], line["order"]) for line in bench.time()] for _ in range(2))
    assert first == again


@pytest.mark.parametrize(("act", "words"), [("die", "was ended by SIGKILL"), ("exit", "exited with status 3")])
def test_a_process_that_ends_leaves_the_rounds(bench: Bench, act: str, words: str) -> None:
    bench.act(t1t2={"turn 4": act})
    lines = bench.time()
    assert turns(lines) == {("none", 0): ROUNDS, ("unrolled", 0): ROUNDS, ("t1t2", 0): 3}
    assert set(told(lines)) == {("t1t2", 0)}
    assert all(message.startswith("not timed: ") and words in message for message in told(lines).values())


def test_whatever_fails_is_said_and_the_others_go_on(bench: Bench) -> None:
    bench.act(t1t2={"turn 4": "out of memory"}, none={"prepare": "it diverged"}, unrolled={"open": "no data"})
    lines = bench.time()
    assert turns(lines) == {("t1t2", 0): 3}
    assert {message for (method, _), message in told(lines).items() if method == "t1t2"} == {"not timed: out of memory"}
    assert {message for (method, _), message in told(lines).items() if method == "none"} == {"not timed: it diverged"}
    assert {message for (method, _), message in told(lines).items() if method == "unrolled"} == {"not timed: no data"}


def test_a_process_that_hangs_is_killed(bench: Bench) -> None:
    bench.act(none={"prepare": "hang"})
    cell = next(cell for cell in bench.group.cells if cell.method == "none")
    object.__setattr__(cell, "limit_seconds", 0.2)
    one = Member(cell, (sys.executable, str(bench.folder / "worker.py")), patience=0.1)
    try:
        assert members.ask([one], {"open": True}, 1) == [{}]
        (answer,) = members.ask([one], {"prepare": 0}, 1)
        assert (
            answer
            == {"failed": "passed the time limit of 0.2 s and did not stop within 0.1 s; killed"}
            == {"failed": one.fault}
        )
        assert not psutil.pid_exists(one.pid)
    finally:
        one.end()


def test_cells_and_seeds_without_memory_take_no_part(bench: Bench) -> None:
    cells, files = bench.group.cells, bench.group.row_files
    bench.write_rows(cells[0], files[0], {0: None, 1: None})
    bench.write_rows(cells[1], files[1], {0: None, 1: 1000})
    lines = bench.time()
    assert turns(lines) == {(cells[1].method, 1): ROUNDS, (cells[2].method, 1): ROUNDS}, "with the seed that most of them have"
    assert not told(lines)
    bench.write_rows(cells[0], files[0], {0: 1000, 1: None})
    bench.write_rows(cells[2], files[2], {0: 1000, 1: None})
    assert told(bench.time()) == {
        (cells[1].method, 0): "not timed: seed 0, which the others are timed with, has no measured memory"
    }


def test_a_lost_group_has_a_line_for_every_cell_and_seed(bench: Bench) -> None:
    lines = lost_group(bench.group, "the job was lost")
    assert len(lines) == 6 and {line["message"] for line in lines} == {"not timed: the job was lost"}


def test_whoever_stops_the_run_leaves_no_process_behind(bench: Bench) -> None:
    bench.act(none={"turn 2": "hang"})
    group = bench.folder / "group.json"
    group.write_text(bench.group.to_json())
    script = (
        "import sys\nfrom pathlib import Path\nfrom metabench.suite.plan.groups import Group\n"
        "from metabench.suite.rounds.time_group import time_group\n"
        f"time_group(Group.read(Path({str(group)!r})), print, worker=(sys.executable, {str(bench.folder / 'worker.py')!r}))"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        (bench.folder / "log").unlink(missing_ok=True)
        stopped = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        end = time.monotonic() + 60
        while not (bench.folder / "log").exists() or not any(entry[0] == "turn" for entry in bench.log()):
            assert time.monotonic() < end and stopped.poll() is None
            time.sleep(0.02)
        children = psutil.Process(stopped.pid).children()
        assert len(children) == 3
        os.kill(stopped.pid, number)
        assert stopped.wait(30) == 128 + number
        assert not any(child.is_running() for child in children)


class Clock:
    """Time that passes by a second per turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def turn(self, one: Member, core: int | None) -> dict[str, Any]:
        del one, core
        self.now += 1.0
        return {"seconds": 1.0, "calls": 1, "started_at": 0.0}


@pytest.mark.parametrize(
    ("rounds", "budget", "expected"),
    [(9, 1000.0, 9), (9, 1.0, LEAST_ROUNDS), (3, 1.0, 3), (9, 14.0, 7)],
)
def test_rounds_end_with_their_number_or_after_five_with_the_budget(rounds: int, budget: float, expected: int) -> None:
    clock, two = Clock(), cast("list[Member]", ["a", "b"])
    lines = take_turns(two, clock.turn, clock, rounds=rounds, budget_s=budget, order=random.Random(0))
    assert Counter(one for one, _ in lines) == {"a": expected, "b": expected}


def test_parts_fit_and_each_has_the_baseline(planned: Callable[..., Plan]) -> None:
    cells = planned(methods=["none", "unrolled", "t1t2", "truncated", "mixflow"]).cells
    peaks = {cell.hash: 100 for cell in cells}

    def methods(room: int) -> list[list[str]]:
        return [[cell.method for cell in part] for part in parts(cells, peaks, "unrolled", room, 10)]

    assert methods(1000) == [["unrolled", "none", "t1t2", "truncated", "mixflow"]]
    assert methods(330) == [["unrolled", "none", "t1t2"], ["unrolled", "truncated", "mixflow"]]
    alone = [["unrolled", one] for one in ("none", "t1t2", "truncated", "mixflow")]
    assert methods(220) == methods(1) == alone
    assert [len(part) for part in parts(cells, peaks, "sama", 220, 10)] == [2, 2, 1]
    assert [len(part) for part in parts(cells[:1], peaks, "none", 1, 10)] == [1]


@pytest.mark.slow  # imports torch in two processes
def test_real_cells_are_timed(planned: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bench = Bench(planned(methods=["t1t2", "unrolled"], seeds=[0, 1]), tmp_path)
    lines = time_group(bench.group, silent)
    assert Counter((line["cell"], line["seed"]) for line in lines) == {(cell.hash, 0): ROUNDS for cell in bench.group.cells}
    assert all(line["seconds"] > 0 and line["calls"] >= 1 and not line.get("message") for line in lines)
