"""An attempt at a cell: its lock, its rows, and what earlier attempts left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from metabench.core.types import Progress
from metabench.suite.plan.cell import Cell
from metabench.suite.predict.predictions import CellPrediction
from metabench.suite.run import scheduler
from metabench.suite.run.lost import ATTEMPTS, attempt_at, lost_rows, made_meanwhile, own_endings
from metabench.suite.run.supervise import supervise

Row = dict[str, Any]
Shown = Callable[[str], AbstractContextManager[Progress]]
"""Given the name of a cell, what shows its progress."""


def attempt_cell(
    cell: Cell,
    out: Path,
    shown: Shown,
    attempt: int = 0,
    memory_mib: int | None = None,
    predicted: CellPrediction | None = None,
    prepared: Path | None = None,
    batch: Path | None = None,
) -> Sequence[Row]:
    """Make the rows of a cell in `out`, print a line for each, and return them.

    Args:
        cell: what runs.
        out: its row file.
        shown: shows how far it is.
        attempt: of a scheduler, from 1; 0 for none. Where those before used up all, the rows say how they ended.
        memory_mib: that was asked of the scheduler.
        predicted: what the cell is predicted to need.
        prepared: the folder of what is prepared for the suite.
        batch: the mark of the cell's batch, if it is in one: the end of its job says why a cell never began.

    Raises:
        MetabenchError: as for `supervise`.
        SystemExit: as for `supervise`.
    """
    with attempt_at(out, attempt, memory_mib) as lock:
        if lock.exhausted:
            from metabench.results.store import write_rows

            rows = lost_rows(cell, out, batch)
            write_rows(out, rows)
        elif not (lock.waited and (rows := made_meanwhile(cell, out))):
            more = bool(attempt and scheduler.job()) and own_endings(out) + 1 < ATTEMPTS
            with shown(cell.name) as progress:
                rows = supervise(cell, out, progress, predicted=predicted, prepared=prepared, lock=lock, more_memory=more)
    for row in rows:
        figure = f"{row['metric']} {row['quality']:.4g}" if row.get("quality") is not None else ""
        words = (cell.name, f"seed {row['seed']}", row["status"], figure, row["message"])
        print(": ".join(filter(None, words)), file=sys.stderr)
    return rows
