"""What the job of a cell, or of a group, asks a scheduler for: memory and minutes, from what is predicted, else from the cells' limits.

The limits alone are far above what most cells take: a job that asks for them waits longer, and fewer share a machine.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from metabench.core.method import Target
from metabench.core.options import build
from metabench.methods import method
from metabench.suite.plan.batches import Batch
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.groups import Group
from metabench.suite.plan.labels import kind_of, method_of
from metabench.suite.plan.plan import Plan
from metabench.suite.predict.predictions import CellPrediction, Predictions, kept_predictions
from metabench.suite.run.lost import endings, is_exhausted

_MIB = 2**20

PROCESSES_MB = 768
"""The two processes of a cell with next to no tensors: torch in one, pyarrow and pandas in the other. Measured as the largest sum of their
resident sets in 80 small cells of every method: 419 MiB in the median, below 474 in nine of ten, 784 at most."""

SPARE_MB = 1024
"""The data set, its copy in double precision, evaluation on the test split, fragments of the heap."""

FLOPS_PER_SECOND = 2e9
"""Of one thread, in single precision. The slowest of the published cells with 10^8 operations or more, a network of four channels,
reaches 6.3e9 on one core; dense products reach 30e9 and more."""

SECONDS_PER_OPERATION = 1e-4
"""Of an operation on a small tensor, from Python. Measured over the published cells of the smallest problem: 6 to 10 microseconds.
With both rates one hypergradient of no published cell takes more than 0.21 of the time that is counted for it."""

GROUP_MB = 16384
"""What timing a group asks for at most, unless its largest cell and the baseline need more: its parts are timed one after another."""

_START_S = 10.0
"""Seconds in which a process imports torch and loads data."""

_TURN_S = 0.04
"""Seconds of a turn of short calls, and the call before them."""

START_MINUTES = 5
"""Imports from a cold file system, loading the data, and what nobody foresees."""

DOUBLE = 2
"""The error is measured in double precision: twice the bytes, and twice the time or more."""


def memory_mb(cell: Cell, predictions: Predictions) -> int:
    """Return MiB for one attempt at a cell: what its limits allow, or less where its prediction says that it takes less.

    What bounds a cell is its hypergradient in double precision and, where its error is measured, the yardstick: a recorded run, which may
    take far more than the method. Its prediction is that of the suite's `unrolled` on the same problem; without one the limits decide.
    A cell on a GPU is predicted in the memory of the GPU, and that of the host comes from the limits; so does that of a cell whose
    prediction leaves something out.
    """
    # Twice the limit: the limit bounds one hypergradient, and its error is measured in double precision.
    allowed = 2048 + DOUBLE * cell.limit_bytes // _MIB
    own = _known(cell, predictions)
    if own is None or own.note or cell.device != "cpu":
        return allowed
    peak = own.peak_bytes
    if _measures_error(cell):
        yardstick = _known(_unrolled(cell), predictions)
        if yardstick is None or yardstick.note:
            return allowed
        peak = max(peak, yardstick.peak_bytes)
    return min(allowed, SPARE_MB + PROCESSES_MB + math.ceil(DOUBLE * peak / _MIB))


def runtime_minutes(cell: Cell, predictions: Predictions) -> int:
    """Return minutes for one attempt at a cell: its time limit, or less where its prediction says that it is done before."""
    allowed = START_MINUTES + round(cell.limit_seconds / 60)
    own = _known(cell, predictions)
    # A kind that times no hypergradient does something else, of which nothing is predicted.
    if own is None or cell.device != "cpu" or not kind_of(cell).partner:
        return allowed
    measure = cell.measure
    once = own.flops / FLOPS_PER_SECOND + own.operations * SECONDS_PER_OPERATION
    # First call, memory (each operation is recorded there: as long as three), and timing, which ends early but not before three repeats.
    calls = 1 + 3 + 1 + min(measure["time_repeats"], 3 + measure["time_budget"] / max(once, 1e-9))
    calls += cell.outer_steps * own.tasks
    seconds = calls * once
    if _measures_error(cell):
        yardstick = _known(_unrolled(cell), predictions)
        if yardstick is None:
            return allowed
        exact = yardstick.flops / FLOPS_PER_SECOND + yardstick.operations * SECONDS_PER_OPERATION
        draws = measure["error_draws"] if method_of(cell).stochastic else 1
        # The exact hypergradient, that of the method's own target, and a plain window to the next.
        seconds += DOUBLE * measure["error_windows"] * (draws * once + 3 * exact)
    return min(allowed, START_MINUTES + math.ceil(len(cell.seeds) * seconds / 60))


def group_memory_mb(group: Group, predictions: Predictions) -> int:
    """Return MiB for one attempt at timing a group: for all its cells at once, or what is granted to it at most: larger ones are split."""
    cells = [math.ceil(_peak(cell, predictions) / _MIB) + PROCESSES_MB for cell in group.cells]
    baseline = sum(one for one, cell in zip(cells, group.cells, strict=True) if cell.method == group.baseline)
    return SPARE_MB + max(min(sum(cells), GROUP_MB), min(sum(cells), baseline + max(cells)))


def group_minutes(group: Group, predictions: Predictions) -> int:
    """Return minutes for one attempt at timing a group: what its cells' calls take as predicted, and their time limits at most."""
    seconds = 0.0
    for cell in group.cells:
        own = _known(cell, predictions)
        if own is None or cell.device != "cpu":
            seconds += cell.limit_seconds
            continue
        once = own.flops / FLOPS_PER_SECOND + own.operations * SECONDS_PER_OPERATION
        # Plain steps, the first calls, and a turn per round with the call before it.
        once = (cell.measure["checkpoint"] + 2 + 2 * group.rounds) * max(once, _TURN_S)
        seconds += _START_S + min(len(cell.seeds) * once, cell.limit_seconds)
    return START_MINUTES + math.ceil(seconds / 60)


def _peak(cell: Cell, predictions: Predictions) -> int:
    own = _known(cell, predictions)
    if cell.device != "cpu":
        return 0
    return cell.limit_bytes if own is None or own.note else min(own.peak_bytes, cell.limit_bytes)


def _measures_error(cell: Cell) -> bool:
    return bool(cell.measure["error_windows"]) and method_of(cell).target is not Target.NONE


def _unrolled(cell: Cell) -> Cell:
    """Return the cell of plain reverse mode, with its default options, on the same problem."""
    options = dataclasses.asdict(build(method("unrolled").options, {}, "method 'unrolled'"))
    return dataclasses.replace(cell, method="unrolled", method_options=options)


def _known(cell: Cell, predictions: Predictions) -> CellPrediction | None:
    found = predictions.of(cell)
    return None if found is None or found.message else found


class Requests:
    """What the jobs of a plan's cells ask for.

    The first question has predictions made, in a process of its own, unless the file holds them all: so they are made before any cell runs,
    and never where none is to run. Where `may_make` says no, as in a dry run, what the file holds has to do.

    Raises MetabenchError, when it is made, for a damaged file.
    """

    def __init__(self, plan: Plan, may_make: Callable[[], bool], workers: int) -> None:
        self._plan, self._may_make = plan, may_make
        self._workers = min(workers, os.cpu_count() or 1)
        self._known = kept_predictions(plan.predictions) if plan.suite.predict else Predictions()

    def memory_mb(self, cell: Cell, attempt: int, out: Path | None = None) -> int:
        """Return MiB for an attempt at a cell, or at `out` if that is another file: twice as much after one that memory ended."""
        return self._of_memory(out or self._plan.row_file(cell), attempt, lambda: memory_mb(cell, self._predictions))

    def runtime_minutes(self, cell: Cell, attempt: int, out: Path | None = None) -> int:
        """Return minutes for an attempt at a cell, or at `out`: twice as many after one that the scheduler's limit ended."""
        return self._of_time(out or self._plan.row_file(cell), attempt, lambda: runtime_minutes(cell, self._predictions))

    def batch_memory_mb(self, batch: Batch, attempt: int) -> int:
        """Return MiB for an attempt at a batch: what its largest cell takes, which runs alone."""
        times = self._times_of(batch, attempt, "oom")
        return max(times[cell.hash] * memory_mb(cell, self._predictions) for cell in batch.cells)

    def batch_minutes(self, batch: Batch, attempt: int) -> int:
        """Return minutes for an attempt at a batch: what its cells take together."""
        times = self._times_of(batch, attempt, "timeout")
        cells = ((cell, runtime_minutes(cell, self._predictions) - START_MINUTES) for cell in batch.cells)
        return START_MINUTES + sum(times[cell.hash] * minutes for cell, minutes in cells)

    def _times_of(self, batch: Batch, attempt: int, status: str) -> dict[str, int]:
        return {cell.hash: _times(self._plan.row_file(cell), attempt, status) for cell in batch.cells}

    def group_memory_mb(self, group: Group, attempt: int) -> int:
        """Return MiB for an attempt at timing a group."""
        return self._of_memory(self._plan.times_file(group), attempt, lambda: group_memory_mb(group, self._predictions))

    def group_minutes(self, group: Group, attempt: int) -> int:
        """Return minutes for an attempt at timing a group."""
        return self._of_time(self._plan.times_file(group), attempt, lambda: group_minutes(group, self._predictions))

    def _of_memory(self, out: Path, attempt: int, first: Callable[[], int]) -> int:
        """Return what the next attempt asks for; one that only writes how the others ended needs next to none."""
        return PROCESSES_MB if is_exhausted(out, attempt) else _times(out, attempt, "oom") * first()

    def _of_time(self, out: Path, attempt: int, first: Callable[[], int]) -> int:
        return START_MINUTES if is_exhausted(out, attempt) else _times(out, attempt, "timeout") * first()

    @functools.cached_property
    def _predictions(self) -> Predictions:
        plan = self._plan
        if not plan.suite.predict:
            return Predictions()
        if any(self._known.of(cell) is None for cell in plan.cells) and self._may_make():
            plan.write()
            command = [sys.executable, "-m", "metabench", "predict", str(plan.suite_file), "--jobs", str(self._workers)]
            # A cell without a prediction runs all the same: what went wrong has been said.
            subprocess.run(command, check=False)
            self._known = kept_predictions(plan.predictions)
        return self._known


def _times(out: Path, attempt: int, status: str) -> int:
    """Return how many times as much an attempt asks for as the first: one more for each that ended by want of it, none for mishaps."""
    return 1 + (sum(one.status == status for one in endings(out)) if attempt > 1 else 0)
