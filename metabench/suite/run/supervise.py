"""One cell in its own process: however that process ends, the cell has a row for every seed, or there is no file at all.

The process is forked before torch is imported. While it imports torch, its parent imports pyarrow. Rows and progress come back as
lines of JSON through a pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.pictures import Picture
from metabench.core.types import Progress
from metabench.suite.plan.cell import Cell
from metabench.suite.predict.predictions import CellPrediction, unfit
from metabench.suite.run.processes import ending, settle, stopping_signals
from metabench.suite.run.rows import failed_row

Row = dict[str, Any]

Runner = Callable[[Cell, Progress], Iterator[Row]]

START_SECONDS = 600.0
"""Seconds that a process may take to import torch."""
PROGRESS_SECONDS = 0.1
"""Least seconds between progress reports within a stage, so that they do not slow timed code."""


def supervise(
    cell: Cell,
    out: Path,
    progress: Progress,
    runner: Runner | None = None,
    grace: float | None = None,
    predicted: CellPrediction | None = None,
    prepared: Path | None = None,
) -> list[Row]:
    """Run `cell` in its own process, write its rows to `out` and return them, in the order of the cell's seeds.

    Seeds without a row get one: 'timeout' if the process had to be killed `grace` seconds (by default 15, or a tenth of the
    limit if that is more) after the cell's time limit, 'oom' if something else killed it, 'error' for any other end.

    `runner` is `metabench.suite.run.run_cell`, with checkpoints beside `out` and what is prepared for the suite in
    `prepared`, unless given. `predicted` columns are added to every row;
    a cell predicted to need more memory than its device is declared to have is not started: its rows are 'unsupported'.

    Raises:
        MetabenchError: a user error found by the runner or while writing; nothing is written.
        SystemExit: SIGINT, SIGTERM or SIGHUP reached this process: the cell's process is killed, nothing is written; the code is
            128 + the signal's number.
    """
    foreseen = predicted.columns() if predicted else {}
    if reason := unfit(cell, predicted):
        environment = _environment(cell)
        rows = [failed_row(cell, seed, "unsupported", reason, environment) | foreseen for seed in cell.seeds]
        _write(out, rows)
        return rows
    patience = max(15.0, 0.1 * cell.limit_seconds) if grace is None else grace
    with stopping_signals() as unblocked:
        child = _fork(cell, runner or functools.partial(_run_cell, out=out, prepared=prepared), imports_torch=runner is None)
        try:
            with unblocked():
                # pyarrow and, since pyarrow asks it what the values of a table are, pandas: now, while the other process imports torch.
                importlib.import_module("pandas")
                importlib.import_module("metabench.results.store")
                heard = _listen(child, cell, patience, progress)
                rows = [_kept(cell, row | foreseen) for row in _complete(cell, heard)]
                _write(out, rows)
        finally:
            child.end()
    return rows


def _kept(cell: Cell, row: Row) -> Row:
    """Return the row, or one that says why no file takes it."""
    from metabench.results.store import check_row

    try:
        check_row(row, "the row")
    except MetabenchError as error:
        return failed_row(cell, row["seed"], "error", str(error), _environment(cell))
    return row


def _write(out: Path, rows: list[Row]) -> None:
    from metabench.results.store import write_rows

    write_rows(out, rows)


def _run_cell(cell: Cell, progress: Progress, out: Path, prepared: Path | None) -> Iterator[Row]:
    from metabench.suite.run.run_cell import run_cell

    return run_cell(cell, progress, out, prepared)


@dataclass
class _Child:
    """The process that runs the cell: its id, the pipe from it, and its wait status once it has ended."""

    pid: int
    pipe: int
    status: int | None = None

    def wait(self) -> int:
        """Return the exit status, negative for the signal that ended the process."""
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self.status)

    def ended(self) -> bool:
        """Tell, without waiting, whether the process has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def kill(self) -> None:
        """Kill the process and all that it started, where any of them still runs."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def end(self) -> None:
        """Kill what still runs and close the pipe."""
        self.kill()
        os.close(self.pipe)


@dataclass
class _Heard:
    """What the pipe delivered, and how it ended."""

    rows: dict[int, Row] = field(default_factory=dict)
    finished: bool = False
    mistake: str = ""
    error: str = ""
    silent: str = ""
    """Why this process killed it."""
    exit_code: int = 0


def _listen(child: _Child, cell: Cell, patience: float, progress: Progress) -> _Heard:
    """Read the pipe until its other end closes; stop when time is up."""
    heard = _Heard()
    allowed, reason = START_SECONDS, f"did not start within {START_SECONDS:g} s"
    since, rest = time.monotonic(), b""
    while True:
        left = since + allowed - time.monotonic()
        if left <= 0 and not child.ended():
            heard.silent = reason
            child.kill()
        # Asked before the pipe is looked at, so that nothing that was sent is missed. The pipe alone does not tell: a process that the
        # cell started may hold it open.
        ended = child.ended()
        if not select.select([child.pipe], [], [], 0 if ended else min(left, 0.5))[0]:
            if ended:
                break
            continue
        piece = os.read(child.pipe, 1 << 16)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "begun" in message:
                since, allowed = time.monotonic(), cell.limit_seconds + patience
                reason = f"passed the cell's time limit of {cell.limit_seconds:g} s and did not stop within {patience:g} s; killed"
            elif "progress" in message:
                progress(*message["progress"])
            elif "row" in message:
                row = message["row"]
                if "curves" in row:
                    row["curves"] = {name: Curve(**curve) for name, curve in row["curves"].items()}
                if "pictures" in row:
                    row["pictures"] = {name: Picture(**picture) for name, picture in row["pictures"].items()}
                heard.rows[row["seed"]] = row
            else:
                heard.finished = "finished" in message
                heard.mistake = message.get("mistake", "")
                heard.error = message.get("error", "")
    heard.exit_code = child.wait()
    return heard


def _complete(cell: Cell, heard: _Heard) -> list[Row]:
    """Return a row for every seed. The first seed without one was running when the process ended; it and later seeds get the reason."""
    if heard.mistake:
        raise MetabenchError(heard.mistake)
    missing = [seed for seed in cell.seeds if seed not in heard.rows]
    if missing:
        status, message = _verdict(heard)
        environment = _environment(cell)
        after = f"not run: seed {missing[0]} ended the cell's process: {message}"
        for seed in missing:
            heard.rows[seed] = failed_row(cell, seed, status, message if seed == missing[0] else after, environment)
    return [heard.rows[seed] for seed in cell.seeds]


def _verdict(heard: _Heard) -> tuple[str, str]:
    if heard.silent:
        return "timeout", heard.silent
    if heard.error:
        return "error", heard.error
    if heard.finished:
        return "error", "the runner ended without a row for this seed"
    return ending(heard.exit_code)


def _environment(cell: Cell) -> Mapping[str, Any]:
    from metabench.measure.environment import environment

    return environment(cell.device)


def _fork(cell: Cell, runner: Runner, imports_torch: bool) -> _Child:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(cell, runner, imports_torch, writing, parent)
    os.close(writing)
    with contextlib.suppress(PermissionError, ProcessLookupError):  # both sides set it: whichever comes first
        os.setpgid(pid, pid)
    return _Child(pid, reading)


def _child(cell: Cell, runner: Runner, imports_torch: bool, writing: int, parent: int) -> NoReturn:
    """Run the cell and leave the process without returning to the code that forked it."""
    code = 1
    pipe = os.fdopen(writing, "wb")
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        settle(cell.threads, cell.kernels, parent)
        if imports_torch:
            _import_torch()
        _send(pipe, {"begun": True})
        for row in runner(cell, _Throttled(pipe)):
            _send(pipe, {"row": row})
        _send(pipe, {"finished": True})
        code = 0
    except MetabenchError as error:
        _send(pipe, {"mistake": str(error)})
    except Exception as error:
        traceback.print_exc()
        _send(pipe, {"error": f"{type(error).__name__}: {error}"})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _import_torch() -> None:
    """Import what a cell needs, so that its time does not include it, and spare the garbage collector the objects of torch.

    They stay for as long as the process; every full collection, as before each measurement of memory, would look at all of them.
    """
    gc.disable()
    importlib.import_module("torch")
    importlib.import_module("metabench.suite.run.run_cell")
    gc.freeze()
    gc.enable()


class _Throttled:
    """Sends progress: every new stage and every last step, other steps at most every `PROGRESS_SECONDS`."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.pipe = pipe
        self.stage = ""
        self.sent = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self.stage or done == total or now - self.sent >= PROGRESS_SECONDS:
            self.stage, self.sent = stage, now
            _send(self.pipe, {"progress": [stage, done, total]})


def _send(pipe: BinaryIO, message: dict[str, Any]) -> None:
    pipe.write(json.dumps(message, default=dataclasses.asdict).encode() + b"\n")
    pipe.flush()
