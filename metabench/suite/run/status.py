"""How far a suite is, from its files and its scheduler: while it runs, and after whatever ended it."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import title
from metabench.suite.plan.plan import Plan
from metabench.suite.run import scheduler
from metabench.suite.run.lock import Said, holder, is_abandoned, is_stale, lock_file, read_lock
from metabench.suite.run.lost import attempts_file, endings

DONE, RUNNING, QUEUED, WAITING, STALE = "done", "running", "queued", "waiting", "stale"
_COLUMNS = ["status", "message", "measured_s"]


@dataclass(frozen=True)
class State:
    """Where a cell is.

    Attributes:
        title: of the cell.
        rows: its row file.
        log: of its job.
        state: done, running, queued (by the scheduler), waiting, or stale: a lock whose holder is gone.
        words: where it runs and how far it is, why it is queued, how attempts ended.
        statuses: of its rows, where it is done.
        message: of its first row that is not ok.
        seconds: that its rows were measured in, or that it has run.
        orphaned: whether the run that started it is gone.
    """

    title: str
    rows: Path
    log: Path
    state: str
    words: str = ""
    statuses: Mapping[str, int] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0
    orphaned: bool = False

    @property
    def failed(self) -> bool:
        """Whether it is done and has a row that is not ok."""
        return any(status != "ok" for status in self.statuses)


@dataclass(frozen=True)
class Status:
    """Where the cells of a suite are; `seconds_left` is None where nothing is known of how long they take."""

    suite: str
    cells: list[State]
    seconds_left: float | None
    gpu_hours: float

    def counts(self) -> dict[str, int]:
        """Return the number of cells in each state."""
        found = Counter(cell.state for cell in self.cells)
        return {state: found[state] for state in (DONE, RUNNING, QUEUED, WAITING, STALE)}

    def to_json(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        cells = [{**asdict(cell), "rows": str(cell.rows), "log": str(cell.log), "failed": cell.failed} for cell in self.cells]
        return {
            "suite": self.suite,
            "counts": self.counts(),
            "seconds_left": self.seconds_left,
            "gpu_hours": self.gpu_hours,
            "cells": cells,
        }


def status(plan: Plan) -> Status:
    """Return where the cells of a plan are; raise MetabenchError as `read_rows` for the table of results."""
    listed = scheduler.queue()
    known = _collected(plan)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        states = list(pool.map(lambda cell: _state(cell, plan.row_file(cell), plan.log_file(cell), known, listed), plan.cells))
    gpu = sum(one.seconds for one, cell in zip(states, plan.cells, strict=True) if cell.device != "cpu")
    return Status(plan.suite.name, states, _left(plan.cells, states), gpu / 3600)


def _state(cell: Cell, out: Path, log: Path, known: Mapping[str, list[Any]], listed: Iterable[scheduler.Queued]) -> State:
    words = title(cell)
    said = read_lock(lock_file(out))
    if said:
        silent = time.time() - lock_file(out).stat().st_mtime if lock_file(out).exists() else 0.0
        if is_stale(said, silent):
            return State(words, out, log, STALE, f"held by {holder(said)}, which is gone")
        return State(words, out, log, RUNNING, _doing(said), seconds=time.time() - said["since"], orphaned=is_abandoned(said))
    if out.is_file():
        return _done(cell, out, log, words, known)
    for job in listed:
        if cell.hash in job.comment:
            why = f" ({job.reason})" if job.reason not in ("None", "") else ""
            return State(words, out, log, QUEUED, f"job {job.id}: {job.state}{why}")
    ended = "; ".join(f"{number}: {one.words}" for number, one in enumerate(endings(out), 1)) if attempts_file(out).exists() else ""
    return State(words, out, log, WAITING, f"attempt {ended}" if ended else "")


def _done(cell: Cell, out: Path, log: Path, words: str, known: Mapping[str, list[Any]]) -> State:
    from metabench.core.errors import MetabenchError
    from metabench.results.store import read_columns

    rows = known.get(cell.hash)
    if rows is None:
        try:
            rows = read_columns(out, _COLUMNS)
        except MetabenchError as error:
            return State(words, out, log, DONE, "", {"unreadable": 1}, str(error))
    message = next((f"{row['status']}: {row['message']}" for row in rows if row["status"] != "ok"), "")
    seconds = sum(row["measured_s"] or 0.0 for row in rows)
    return State(words, out, log, DONE, "", dict(Counter(row["status"] for row in rows)), message, seconds)


def _collected(plan: Plan) -> dict[str, list[Any]]:
    """Return rows by cell, of those that the suite's table has and that were not made anew since."""
    from metabench.results.store import read_columns

    if not plan.results.is_file():
        return {}
    made, found = plan.results.stat().st_mtime, dict[str, list[Any]]()
    for row in read_columns(plan.results, ["cell", *_COLUMNS]):
        found.setdefault(row["cell"], []).append(row)
    return {
        cell.hash: found[cell.hash]
        for cell in plan.cells
        if cell.hash in found and (out := plan.row_file(cell)).is_file() and out.stat().st_mtime <= made
    }


def _doing(said: Said) -> str:
    stage, done, total = (said.get(name, 0) for name in ("stage", "done", "total"))
    far = f": {stage}" if stage else ""
    return f"{holder(said)}{far}" + (f", {done} of {total}" if total and total > 1 else "")


def _left(cells: Iterable[Cell], states: Iterable[State]) -> float | None:
    """Return the seconds until all are done, if as many run at a time as now, and take what their like took."""
    pairs = list(zip(cells, states, strict=True))
    took: dict[tuple[str, ...], list[float]] = {}
    for cell, one in pairs:
        if one.state == DONE:
            for like in _like(cell):
                took.setdefault(like, []).append(one.seconds)
    todo = [(cell, one) for cell, one in pairs if one.state != DONE]
    if not todo:
        return 0.0
    if not took:
        return None
    expected = sum(
        max(statistics.median(next(took[like] for like in _like(cell) if like in took)) - one.seconds, 0.0) for cell, one in todo
    )
    return expected / max(1, sum(one.state == RUNNING for _, one in todo))


def _like(cell: Cell) -> list[tuple[str, ...]]:
    """Return whom a cell is like, the nearest first."""
    return [(cell.problem, cell.size, cell.kind, cell.method), (cell.problem, cell.size, cell.kind), (cell.problem,), ()]
