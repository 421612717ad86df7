"""Many certificates: each method in its own process, so that a crash or a hang does not affect the others."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from metabench.certify.rows import certificate_row, identity
from metabench.core.lazy import torch
from metabench.core.types import Progress
from metabench.methods import method as method_named
from metabench.results.certificate import FAILED
from metabench.suite.run.processes import end_with

Row = dict[str, Any]

SECONDS = 180.0
"""How long one method may take."""


@dataclass
class _Running:
    name: str
    process: Any
    pipe: Connection
    since: float


def certify_all(
    names: Sequence[str],
    plugins: Iterable[Path] = (),
    progress: Progress | None = None,
    jobs: int | None = None,
    seconds: float = SECONDS,
) -> list[Row]:
    """Return the certificates of the methods `names`, in that order, as rows; `jobs` of them at a time, by default one per core.

    A method whose process crashes, or that takes more than `seconds`, gets one row that says so.

    Raises:
        MetabenchError: there is no such method, or a plugin cannot be imported.
    """
    plugins = tuple(plugins)
    for name in names:
        method_named(name, plugins)
    workers = jobs or _cores()
    tell = progress or (lambda stage, done, total: None)
    # Imported once, here: its import takes seconds. Nothing of it is run in this process, whose threads would not survive a fork.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    waiting, running, finished = list(names), list[_Running](), dict[str, list[Row]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(waiting.pop(0), plugins))
            tell(", ".join(one.name for one in running), len(finished), len(names))
            multiprocessing.connection.wait([one.pipe for one in running], timeout=0.2)
            for one in list(running):
                rows = _outcome(one, plugins, seconds)
                if rows is not None:
                    finished[one.name] = rows
                    running.remove(one)
    finally:
        torch.set_num_threads(threads)
        for one in running:
            one.process.kill()
            one.process.join()
    tell("done", len(names), len(names))
    return [row for name in names for row in finished[name]]


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(name: str, plugins: tuple[Path, ...]) -> _Running:
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, plugins, writing, os.getpid()), daemon=True)
    process.start()
    writing.close()
    return _Running(name, process, reading, time.monotonic())


def _work(name: str, plugins: tuple[Path, ...], pipe: Connection, parent: int) -> None:
    from metabench.certify.run import certify

    end_with(parent)
    # The terminal's Ctrl-C reaches every process of the group; the one that started this answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # What libraries say of themselves at every call: higher of its RMSprop, torch of its own scripts.
    warnings.filterwarnings("ignore", module=r"(higher|torch)\b")
    try:
        pipe.send(certify(name, plugins))
    except Exception as error:  # nothing of one method may end the others
        traceback.print_exc()
        pipe.send([_broken_row(name, plugins, f"could not be certified: {type(error).__name__}: {error}")])


def _outcome(one: _Running, plugins: tuple[Path, ...], seconds: float) -> list[Row] | None:
    """Return the rows of a process that has ended or has to be ended; None while it goes on."""
    if one.pipe.poll():
        try:
            sent = one.pipe.recv()
        except EOFError:
            one.process.join()
            return [_broken_row(one.name, plugins, f"ended its process: {_ending(one.process.exitcode)}")]
        one.process.join()
        return list(sent)
    if time.monotonic() - one.since > seconds:
        one.process.kill()
        one.process.join()
        return [_broken_row(one.name, plugins, f"took more than {seconds:g} s and was stopped")]
    return None


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"{signal.Signals(-code).name} ({signal.strsignal(-code)})"
    return f"exit status {code}"


def _broken_row(name: str, plugins: tuple[Path, ...], message: str) -> Row:
    """Return the row of a method whose process reported nothing."""
    found = method_named(name, plugins)
    return certificate_row(
        **identity(name, plugins),
        kind="claim",
        claim="exact" if found.exact else "limit",
        verdict=FAILED,
        message=message,
    )
