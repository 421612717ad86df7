"""Computing what cells share, before them: what a problem keeps in files when it is built, or a part of a kind of experiment."""

from __future__ import annotations

import json
import time
from pathlib import Path

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MESSAGE_LENGTH, MetabenchError, unknown
from metabench.core.types import Progress
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.preparations import PROBLEM, Preparation, preparations_of


def mark(cell: Cell, seed: int, prepared: Path, part: str = PROBLEM) -> Path:
    """Return the file that says that something is prepared for a cell and seed; raise MetabenchError if the cell needs no such thing."""
    return prepared / f"{_of(cell, seed, part).hash}.json"


def prepare(
    cell: Cell, seed: int, prepared: Path, part: str = PROBLEM, progress: Progress = lambda stage, done, total: None
) -> str:
    """Compute what is to be prepared into its folder in `prepared`, and write the mark; return why it failed, or ''.

    A failure is no failure of the job: cells try themselves, meet the same, and have rows that say so.

    Args:
        cell: one of those that need it.
        seed: one of its seeds.
        prepared: the folder of all that is prepared for the suite.
        part: of the cell's kind of experiment, by name; empty for what the problem prepares.
        progress: called with what runs.

    Raises:
        MetabenchError: the cell needs no such thing for this seed; or the mark cannot be written.
    """
    from metabench.measure.clock import pin_threads
    from metabench.measure.kernels import choose_kernels
    from metabench.measure.outcome import outcome
    from metabench.suite.plan.labels import kind_of, load_data
    from metabench.suite.run.run_cell import subject_of

    wanted, out, begun, reason = _of(cell, seed, part), mark(cell, seed, prepared, part), time.perf_counter(), ""
    choose_kernels(cell.kernels)
    pin_threads(cell.threads)
    try:
        subject = subject_of(cell, seed, load_data(cell), True, progress, None, prepared)
        if wanted.part:
            prepares = kind_of(cell).prepare
            assert prepares is not None
            prepares(subject, part)
        else:
            subject.make(cell.dtype)
    except MetabenchError as error:  # its words are for whoever asked for it
        reason = str(error)
    except Exception as error:  # every failure is in the mark: this is the one place that may catch everything
        reason = outcome(error)[1]
    files = sorted((prepared / wanted.hash).rglob("*"))
    said = {
        "what": wanted.title,
        "settings": dict(wanted.settings),
        "seconds": round(time.perf_counter() - begun, 1),
        "files": {path.name: path.stat().st_size for path in files if path.is_file()},
        "failed": reason[:MESSAGE_LENGTH],
    }
    write_text_atomically(out, json.dumps(said, indent=1) + "\n")
    return reason


def give_up(cell: Cell, seed: int, prepared: Path, reason: str, part: str = PROBLEM) -> None:
    """Write a mark that says how all attempts were lost: the cells are to try themselves."""
    said = {"what": _of(cell, seed, part).title, "failed": reason[:MESSAGE_LENGTH]}
    write_text_atomically(mark(cell, seed, prepared, part), json.dumps(said, indent=1) + "\n")


def _of(cell: Cell, seed: int, part: str) -> Preparation:
    known = preparations_of(cell, seed)
    if part in known:
        return known[part]
    if part:
        raise unknown(f"part of kind '{cell.kind}'", part, known)
    raise MetabenchError(
        f"problem '{cell.problem}' prepares nothing for size '{cell.size}' with these options: `metabench run` needs no more"
    )
