"""The parent's side of a cell's process: it is started, asked, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from metabench.suite.plan.cell import Cell
from metabench.suite.run.processes import ending
from metabench.suite.run.supervise import START_SECONDS

WORKER = (sys.executable, "-m", "metabench.suite.rounds.worker")
_LOOK_S = 0.5

Answer = dict[str, Any]


class Member:
    """A cell and its process.

    Attributes:
        cell: what it times.
        fault: why the process is gone, or of no use; empty while it can be asked.
        patience: seconds that it may take beyond the cell's time limit, which it observes itself.
    """

    def __init__(self, cell: Cell, worker: Sequence[str] = WORKER, patience: float | None = None) -> None:
        """Start the process anew rather than as a copy of this one: the addresses of its memory are to differ from those of the others."""
        self.cell = cell
        self.fault = ""
        self.patience = max(15.0, 0.1 * cell.limit_seconds) if patience is None else patience
        self._left = cell.limit_seconds
        self._heard = b""
        self._asked = self._allowed = 0.0
        self._counts = False
        command = [*worker, str(os.getpid())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0
        )
        os.set_blocking(self.fileno(), False)
        self._write(dataclasses.asdict(cell))

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def send(self, request: dict[str, Any]) -> None:
        """Send a request. One that a dead process does not take is answered by its end."""
        self._asked = time.monotonic()
        self._allowed = START_SECONDS if "open" in request else max(self._left, 0) + self.patience
        self._counts = "open" not in request
        self._write(request)

    def fileno(self) -> int:
        """Return the pipe from the process."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def answer(self) -> Answer | None:
        """Return the answer to the last request, or None while there is none. The end of the process is a failure."""
        # Asked before the pipe is read, so that nothing is missed. The pipe alone does not tell: a process that the cell started may
        # hold it open.
        ended = self._process.poll() is not None
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self.fileno(), 1 << 16)
            self._heard += piece
            ended = ended or not piece
        if b"\n" in self._heard:
            line, self._heard = self._heard.split(b"\n", 1)
            self._left -= (time.monotonic() - self._asked) * self._counts
            found: Answer = json.loads(line)
            return found
        if ended:
            self.fault = ending(self._process.wait())[1]
        elif time.monotonic() - self._asked > self._allowed:
            limit = (
                f"passed the time limit of {self.cell.limit_seconds:g} s and did not stop"
                if self._counts
                else "did not start"
            )
            self.fault = f"{limit} within {self.patience if self._counts else START_SECONDS:g} s; killed"
            self._kill()
        return {"failed": self.fault} if self.fault else None

    def end(self) -> None:
        """Kill the process and all that it started, where any of them still runs, and close its pipes."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def ask(members: Sequence[Member], request: dict[str, Any], at_once: int) -> list[Answer]:
    """Return the members' answers to a request, in their order, of which at most `at_once` work on it at a time."""
    waiting, found = list(members), dict[Member, Answer]()
    with selectors.DefaultSelector() as busy:
        while waiting or busy.get_map():
            while waiting and len(busy.get_map()) < at_once:
                member = waiting.pop(0)
                member.send(request)
                busy.register(member, selectors.EVENT_READ, member)
            busy.select(_LOOK_S)
            for member in [key.data for key in busy.get_map().values()]:
                answer = member.answer()
                if answer is not None:
                    busy.unregister(member)
                    found[member] = answer
    return [found[member] for member in members]
