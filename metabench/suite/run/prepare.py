"""Preparing what many cells share: the problem of one of them is built, and keeps what it computes in files."""

from __future__ import annotations

import json
import time
from pathlib import Path

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MESSAGE_LENGTH, MetabenchError
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.preparations import Preparation, preparation


def mark(cell: Cell, seed: int, prepared: Path) -> Path:
    """Return the file that says that what a cell needs for a seed is prepared; raise MetabenchError if it needs nothing."""
    return prepared / f"{_of(cell, seed).hash}.json"


def prepare(cell: Cell, seed: int, prepared: Path) -> str:
    """Build the cell's problem, which keeps its files in `prepared`, and write the mark; return why it could not be built, or ''.

    A failure is no failure of the job: cells build the problem again, meet the same, and have rows that say so.

    Raises:
        MetabenchError: the cell needs nothing for this seed; or the mark cannot be written.
    """
    from metabench.measure.clock import pin_threads
    from metabench.measure.kernels import choose_kernels
    from metabench.measure.outcome import outcome
    from metabench.suite.plan.labels import load_data, problem_of

    wanted, out, begun, reason = _of(cell, seed), mark(cell, seed, prepared), time.perf_counter(), ""
    choose_kernels(cell.kernels)
    pin_threads(cell.threads)
    try:
        problem_of(cell, seed, load_data(cell), cell.device, cell.dtype, prepared)
    except MetabenchError as error:  # its words are for whoever asked for it
        reason = str(error)
    except Exception as error:  # every failure is in the mark: this is the one place that may catch everything
        reason = outcome(error)[1]
    files = sorted((prepared / wanted.hash).glob("*"))
    said = {
        "what": wanted.title,
        "settings": wanted.settings,
        "seconds": round(time.perf_counter() - begun, 1),
        "files": {path.name: path.stat().st_size for path in files if path.is_file()},
        "failed": reason[:MESSAGE_LENGTH],
    }
    write_text_atomically(out, json.dumps(said, indent=1) + "\n")
    return reason


def give_up(cell: Cell, seed: int, prepared: Path, reason: str) -> None:
    """Write a mark that says how all attempts were lost: the cells are to try themselves."""
    said = {"what": _of(cell, seed).title, "failed": reason[:MESSAGE_LENGTH]}
    write_text_atomically(mark(cell, seed, prepared), json.dumps(said, indent=1) + "\n")


def _of(cell: Cell, seed: int) -> Preparation:
    found = preparation(cell, seed)
    if found is None:
        raise MetabenchError(
            f"problem '{cell.problem}' prepares nothing for size '{cell.size}' with these options: `metabench run` needs no more"
        )
    return found
