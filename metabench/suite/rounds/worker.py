"""The process of one cell: it goes to the checkpoint of a seed, and times calls whenever it is its turn.

The first line of standard input is the cell's spec. Then requests come one per line of JSON, and each gets one line as its answer:
{"open": true, "prepared": FOLDER} loads torch and the data, and says where what is prepared lies, {"prepare": SEED} ends with the warm-up,
{"turn": CORE} times calls on that core, or on any if it is null. {"failed": WHY} answers any of them. A process that waits blocks on its
pipe. What others print goes to the log.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metabench.core.errors import Diverged, MetabenchError, TimeLimit
from metabench.suite.plan.cell import Cell
from metabench.suite.run.processes import settle

TURN_S = 0.02
"""Seconds that the calls of a turn last, or one call."""

LONG_S = 1.0
"""Seconds of a first call after which there is no second one before the rounds."""


def serve() -> None:
    """Answer requests until standard input closes. The argument is the id of the process that asks."""
    parent = int(sys.argv[1])
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as answers:
        cell = Cell.from_json(requests.readline().decode(), "the first line")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        settle(cell.threads, cell.kernels, parent)
        timed = _Timed(cell)
        for line in requests:
            answers.write(json.dumps(timed.answer(json.loads(line))).encode() + b"\n")
            answers.flush()


class _Timed:
    """A cell whose hypergradient is timed, and what is left of its time limit."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.prepared: Path | None = None
        self.left = cell.limit_seconds
        self.loaded: Any = None
        self.call: Callable[[], Any] | None = None
        self.leads_in = False

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be sent back."""
        begun = time.perf_counter()
        try:
            if "open" in request:
                self.prepared = Path(request["prepared"]) if request.get("prepared") else None
                return self._open()
            with self._limits():
                return self._prepare(request["prepare"]) if "prepare" in request else self._turn(request["turn"])
        except TimeLimit:
            return {"failed": f"passed the time limit of {self.cell.limit_seconds:g} s, all its seeds together"}
        except MetabenchError as error:  # of the problem or the method: its words are for whoever wrote that
            return {"failed": str(error)}
        except Exception as error:  # every failure is a line: this is the one place that may catch everything
            from metabench.measure.outcome import outcome

            traceback.print_exc()
            return {"failed": outcome(error)[1]}
        finally:
            if "open" not in request:
                self.left -= time.perf_counter() - begun

    @contextlib.contextmanager
    def _limits(self) -> Iterator[None]:
        from metabench.core.lazy import torch
        from metabench.measure.clock import deadline
        from metabench.measure.memory.bound import memory_bound
        from metabench.suite.run.run_cell import NET

        with deadline(self.left), memory_bound(NET * self.cell.limit_bytes, torch.device(self.cell.device)):
            yield

    def _open(self) -> dict[str, Any]:
        importlib.import_module("torch")
        from metabench.measure.clock import pin_threads
        from metabench.suite.plan.labels import load_data

        pin_threads(self.cell.threads)
        self.loaded = load_data(self.cell)
        return {}

    def _prepare(self, seed: int) -> dict[str, Any]:
        from metabench.core.checks import check_hypergradient, non_finite
        from metabench.measure.clock import time_turn
        from metabench.stages.cost import checkpoint_call
        from metabench.suite.run.run_cell import subject_of

        # Before the next seed's: two problems at a time need not fit.
        self.call = None
        subject = subject_of(self.cell, seed, self.loaded, False, lambda stage, done, total: None, None, self.prepared)
        call, _, state, meta, _ = checkpoint_call(subject)
        begun = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - begun
        check_hypergradient(found, state, meta)
        if lost := non_finite(found):
            raise Diverged(f"{lost} at the checkpoint")
        del found
        if seconds < LONG_S:
            seconds, _ = time_turn(call, self.cell.device, at_least_s=0)
        self.call, self.leads_in = call, seconds < TURN_S or self.cell.device != "cpu"
        gc.collect()
        self._release()
        return {}

    def _turn(self, core: int | None) -> dict[str, Any]:
        from metabench.measure.clock import time_turn

        if self.call is None:
            raise ValueError("a turn before a seed was prepared")
        at = time.time()
        with _on_core(core):
            if self.leads_in:
                # Others have used the caches since: a short call would pay for that, a long one does not notice.
                self.call()
            seconds, calls = time_turn(self.call, self.cell.device, at_least_s=TURN_S)
        self._release()
        return {"seconds": seconds, "calls": calls, "started_at": at}

    def _release(self) -> None:
        """Give cached memory of a GPU back, which the others need."""
        if self.cell.device != "cpu":
            from metabench.core.lazy import torch

            torch.cuda.empty_cache()


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Let this thread run on one core within the block; None leaves the choice to the system."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    serve()
