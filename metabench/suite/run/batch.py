"""The cells of a batch, one after another, each in a process forked from this one, which has imported torch for all of them.

Every cell has its own row file, lock, journal and attempts: what ends the job of a batch costs the cell that ran, and a later attempt goes
on with it. Cells that have their rows are left alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MetabenchError
from metabench.measure.kernels import choose_kernels
from metabench.suite.plan.cell import Cell
from metabench.suite.predict.predictions import Predictions
from metabench.suite.run.attempt import Shown, attempt_cell
from metabench.suite.run.lost import (
    MOST_ATTEMPTS,
    attempt_at,
    endings,
    forget_attempts,
    is_to_try_again,
    made_meanwhile,
    note_exit,
)
from metabench.suite.run.processes import use_threads

MOST_BATCH_ATTEMPTS = 3 * MOST_ATTEMPTS
"""Attempts of one run at a batch: several of its cells may end some."""


def run_batch(
    cells: Sequence[tuple[Cell, Path]],
    mark: Path,
    shown: Shown,
    attempt: int = 0,
    memory_mib: int | None = None,
    predictions: Predictions | None = None,
    prepared: Path | None = None,
) -> Counter[str]:
    """Make the rows of the cells of a batch, each in its row file, and a mark that says so; return how many rows have which status.

    Args:
        cells: with their row files.
        mark: the file that says that all cells have rows: JSON, for each cell how many rows have which status.
        shown: shows how far a cell is.
        attempt: of a scheduler, from 1; 0 for none.
        memory_mib: that was asked of the scheduler.
        predictions: of the suite.
        prepared: the folder of what is prepared for the suite.

    Raises:
        MetabenchError: cells could not be run, or not written; the others have their rows.
        SystemExit: the process was asked to end; cells before have their rows.
    """
    first = cells[0][0]
    choose_kernels(first.kernels)
    with attempt_at(mark, attempt, memory_mib, MOST_BATCH_ATTEMPTS) as lock:
        said: dict[str, Counter[str]] = {}
        mistakes: list[str] = []
        for cell, out in cells:
            if attempt == 1 or not attempt:
                forget_attempts(out)
            rows: Sequence[dict[str, Any]] = [] if is_to_try_again(out) else made_meanwhile(cell, out)
            if not rows:
                number = MOST_ATTEMPTS + 1 if lock.exhausted else attempt and 1 + len(endings(out))
                if not lock.exhausted:
                    _import_once(first)
                try:
                    predicted = predictions.of(cell) if predictions else None
                    rows = attempt_cell(cell, out, shown, number, memory_mib, predicted, prepared, mark)
                except MetabenchError as error:
                    print(f"{cell.name}: {error}", file=sys.stderr)
                    mistakes.append(f"{cell.name}: {error}")
                    note_exit(out, 2)
                    continue
            said[cell.name] = Counter(row["status"] for row in rows)
        if mistakes:
            raise MetabenchError("\n".join([f"{len(mistakes)} of {len(cells)} cells have no rows:", *mistakes]))
        write_text_atomically(mark, json.dumps(said, indent=1) + "\n")
    return sum(said.values(), Counter())


def _import_once(cell: Cell) -> None:
    """Import what cells need into this process, which they are forked from; nothing that starts threads."""
    if "metabench.suite.run.run_cell" not in sys.modules:
        use_threads(cell.threads)
        importlib.import_module("torch")
        importlib.import_module("metabench.suite.run.run_cell")
        # What is there now is in every process: the collector need not look at it, nor copy its pages.
        gc.collect()
        gc.freeze()
