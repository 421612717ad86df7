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
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.measure.own_device import own_device
from metabench.suite.plan.cell import Cell
from metabench.suite.predict.predictions import CellPrediction, unfit
from metabench.suite.run.journal import Journal, row_of
from metabench.suite.run.lock import BEAT_SECONDS, Lock
from metabench.suite.run.lost import note_end, note_ending
from metabench.suite.run.memory_limit import Killed, killed_for_memory, limit_bytes, oom_kills, resident_bytes
from metabench.suite.run.processes import ending, settle, stopping_signals
from metabench.suite.run.rows import failed_row
from metabench.training import interruption

Row = dict[str, Any]

Runner = Callable[[Cell, Progress], Iterator[Row]]

START_SECONDS = 600.0
"""Seconds that a process may take to import torch."""
SAVING_SECONDS = 120.0
"""Seconds that a process may take to save its run, when it is asked to end: as long as an outer step, and some."""
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
    lock: Lock | None = None,
    more_memory: bool = False,
) -> list[Row]:
    """Run `cell` in its own process, write its rows to `out` and return them, in the order of the cell's seeds.

    Seeds without a row get one: 'timeout' if the process had to be killed `grace` seconds (by default 15, or a tenth of the
    limit if that is more) after the cell's time limit, 'oom' if it was killed for memory, 'error' for any other end. Where something
    else than memory killed it, the next run tries the cell again, once.

    Rows are kept as they come: a later call for the same `out` goes on with the seeds that have none, and with a run from its checkpoint.

    A cell on a GPU has a device to itself, and waits where all are taken: nothing of that counts as its time.

    `runner` is `metabench.suite.run.run_cell`, with checkpoints beside `out` and what is prepared for the suite in
    `prepared`, unless given. `predicted` columns are added to every row;
    a cell predicted to need more memory than its device is declared to have is not started: its rows are 'unsupported'. `lock` is the one
    that is held on `out`: it is kept alive. With `more_memory` the next attempt will have more, and a cell killed for it has no row yet.

    Raises:
        MetabenchError: a user error found by the runner or while writing; nothing is written.
        SystemExit: SIGINT, SIGTERM or SIGHUP reached this process: the cell's process may save its run, for `SAVING_SECONDS` or until a
            second signal, and is killed; no rows are written; the code is 128 + the signal's number. So with 9 for `more_memory`.
    """
    foreseen = predicted.columns() if predicted else {}
    if reason := unfit(cell, predicted):
        environment = _environment(cell)
        rows = [failed_row(cell, seed, "unsupported", reason, environment) | foreseen for seed in cell.seeds]
        _write(out, rows)
        return rows
    patience = max(15.0, 0.1 * cell.limit_seconds) if grace is None else grace
    journal = Journal(cell, out)
    todo = dataclasses.replace(cell, seeds=[seed for seed in cell.seeds if seed not in journal.rows])
    heard = _Heard(dict(journal.rows), finished=not todo.seeds)
    kills = oom_kills()
    with stopping_signals() as unblocked, contextlib.ExitStack() as device:
        if todo.seeds:
            with unblocked():
                device.enter_context(own_device(cell.device, lambda words: print(f"{out}: {words}", file=sys.stderr), _waiting(lock)))
            run = functools.partial(_run_cell, cell=cell, out=out, prepared=prepared, done=dict(journal.rows))
            child = _fork(todo, runner or run, imports_torch=runner is None)
            try:
                with lock.beating(lambda: resident_bytes(child.pid)) if lock else contextlib.nullcontext():
                    try:
                        with unblocked():
                            # pyarrow and, since pyarrow asks it what values are, pandas: now, while the other process imports torch.
                            importlib.import_module("pandas")
                            importlib.import_module("metabench.results.store")
                            _listen(child, heard, journal, cell.limit_seconds, patience, _told_to(lock, progress))
                    except SystemExit:
                        child.terminate()
                        with unblocked():
                            _listen(child, heard, journal, SAVING_SECONDS, 0.0, progress)
                        raise
                    if heard.exit_code == -signal.SIGKILL and not heard.silent:
                        heard.killed = killed_for_memory(child.peak_bytes, lock.limit_bytes if lock else limit_bytes(), kills)
                        if heard.killed.status == "oom" and more_memory:
                            note_ending(out, heard.killed)
                            raise SystemExit(128 + signal.SIGKILL)
            finally:
                child.end()
        if heard.mistake:
            journal.forget()
            raise MetabenchError(heard.mistake)
        with unblocked():
            rows = [_kept(cell, row | foreseen) for row in _complete(cell, heard)]
            _write(out, rows)
            journal.forget()
            note_end(out, mishap=heard.killed is not None and heard.killed.status != "oom")
    return rows


def _waiting(lock: Lock | None) -> Callable[[], None]:
    """Return what keeps the lock alive while a cell waits for a GPU. No thread may run before the fork."""
    due = 0.0

    def beat() -> None:
        nonlocal due
        if lock is not None and time.monotonic() >= due:
            lock.doing, due = ("waiting for a GPU", 0, 1), time.monotonic() + BEAT_SECONDS
            lock.write()

    return beat


def _told_to(lock: Lock | None, progress: Progress) -> Progress:
    """Return a progress function that the lock hears, too."""
    if lock is None:
        return progress

    def tell(stage: str, done: int, total: int) -> None:
        lock.doing = (stage, done, total)
        progress(stage, done, total)

    return tell


def _kept(cell: Cell, row: Row) -> Row:
    """Return the row, or one that says why no file takes it."""
    from metabench.results.store import check_row

    try:
        check_row(row, "the row")
    except MetabenchError as error:
        return failed_row(cell, row["seed"], "error", str(error), _environment(cell))
    return row


def _write(out: Path, rows: list[Row]) -> None:
    """Write the rows, or raise MetabenchError that says where they are instead."""
    from metabench.results.store import write_rows

    try:
        write_rows(out, rows)
    except MetabenchError as error:
        scratch = Path(tempfile.mkdtemp(prefix="metabench-rows-")) / out.name
        try:
            write_rows(scratch, rows)
        except MetabenchError:
            raise error from None
        raise MetabenchError(f"{error}; the rows are in '{scratch}' on {socket.gethostname()}: move that file there") from error


def _run_cell(
    todo: Cell, progress: Progress, cell: Cell, out: Path, prepared: Path | None, done: Mapping[int, Row]
) -> Iterator[Row]:
    from metabench.suite.run.run_cell import run_cell

    return run_cell(cell, progress, out, prepared, done)


@dataclass
class _Child:
    """The process that runs the cell: its id, the pipe from it, and once it has ended its wait status and the most memory it took."""

    pid: int
    pipe: int
    status: int | None = None
    peak_bytes: int = 0

    def wait(self) -> int:
        """Return the exit status, negative for the signal that ended the process."""
        self._look(0)
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def ended(self) -> bool:
        """Tell, without waiting, whether the process has ended."""
        self._look(os.WNOHANG)
        return self.status is not None

    def _look(self, how: int) -> None:
        if self.status is None:
            pid, status, used = os.wait4(self.pid, how)
            if pid:
                # In KiB, but for macOS.
                self.status, self.peak_bytes = status, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def terminate(self) -> None:
        """Ask the process to save its run and to end."""
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

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
    rest: bytes = b""
    """What was read of a line: a signal may come in its middle."""
    killed: Killed | None = None
    """By whom, where it was killed and not by this process."""


def _listen(child: _Child, heard: _Heard, journal: Journal, limit: float, patience: float, progress: Progress) -> None:
    """Read the pipe until its other end closes; stop when time is up. Rows go to the journal, too."""
    allowed, reason = START_SECONDS, f"did not start within {START_SECONDS:g} s"
    since = time.monotonic()
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
        *lines, heard.rest = (heard.rest + piece).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "begun" in message:
                since, allowed = time.monotonic(), limit + patience
                reason = f"passed the cell's time limit of {limit:g} s and did not stop within {patience:g} s; killed"
            elif "progress" in message:
                progress(*message["progress"])
            elif "row" in message:
                row = row_of(message["row"])
                heard.rows[row["seed"]] = row
                journal.add(row)
            else:
                heard.finished = "finished" in message
                heard.mistake = message.get("mistake", "")
                heard.error = message.get("error", "")
    heard.exit_code = child.wait()


def _complete(cell: Cell, heard: _Heard) -> list[Row]:
    """Return a row for every seed. The first seed without one was running when the process ended; it and later seeds get the reason."""
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
    if heard.killed:
        return heard.killed.status, heard.killed.words
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
        interruption.heed(signal.SIGTERM)
        if imports_torch:
            _import_torch()
        _send(pipe, {"begun": True})
        for row in runner(cell, _Throttled(pipe)):
            _send(pipe, {"row": row})
        _send(pipe, {"finished": True})
        code = 0
    except MetabenchError as error:
        _send(pipe, {"mistake": str(error)})
    except interruption.Interrupted as ended:
        print(f"saved {ended}", file=sys.stderr)
        code = 128 + signal.SIGTERM
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
