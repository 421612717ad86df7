"""A trained optimiser from the meta-parameters that are kept beside a cell's rows."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_bytes_atomically
from metabench.core.errors import MetabenchError, missing_file
from metabench.core.options import build
from metabench.learned.exported import Exported
from metabench.learned.problem import LearnedOptimiserProblem
from metabench.results.certificate import certificates, read_certificates
from metabench.results.store import read_rows, rows_of
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import load_data, problem_class, problem_of
from metabench.training.kept import MOST_BYTES, Trained, read_kept

_CARD = (
    "problem",
    "dataset",
    "size",
    "inner_steps",
    "outer_steps",
    "method",
    "label",
    "seed",
    "dtype",
    "suite",
    "cell",
    "code_hash",
    "git_commit",
    "metabench_version",
    "started_at",
)


def export(rows: Path, out: Path, seed: int | None) -> str:
    """Write the optimiser that a seed of a cell trained; return a line that says what it is.

    Without a seed it is the one whose outer loss late in training is least: test data choose nothing.

    Raises:
        MetabenchError: there are no rows, no such seed that succeeded, or no meta-parameters of the same run; or the problem's
            meta-parameters are no optimiser, or not one that this source knows.
    """
    if not rows.is_file():
        raise missing_file("row file", rows)
    row = _row(rows, seed)
    spec, seeds = read_kept(rows)
    trained = next((one for one in seeds if _same_run(one, row)), None)
    if trained is None:
        raise MetabenchError(f"the meta-parameters beside '{rows}' are not those of its rows: run the cell again")
    if trained.meta is None:
        size = trained.n_bytes / 2**20
        raise MetabenchError(
            f"the meta-parameters of seed {row['seed']} take {size:.1f} MiB; above {MOST_BYTES >> 20} MiB none are kept"
        )
    cell = Cell.from_json(spec, str(rows))
    if not issubclass(problem_class(cell), LearnedOptimiserProblem):
        raise MetabenchError(f"'{rows}' is of problem '{cell.problem}', in which no optimiser is learned")
    card = _card(rows, row, trained)
    exported = Exported(_texts(cell, row["seed"], trained), trained.meta, card, str(out))
    exported.check(f"what is kept beside '{rows}'")
    write_bytes_atomically(out, exported.content())
    return f"{', '.join(exported.texts.values())}, seed {row['seed']} of {cell.problem} by {row['label']}: {out}"


def _row(rows: Path, seed: int | None) -> dict[str, Any]:
    """Return the row of a seed, or the one with the least outer loss late in training."""
    found = [row for row in rows_of(read_rows(rows)) if row["status"] == "ok"]
    if not found:
        raise MetabenchError(f"no seed of '{rows}' succeeded")
    if seed is None:
        # Tuned options have none: the first seed then.
        return min(found, key=lambda row: math.inf if row["validation_loss"] is None else row["validation_loss"])
    chosen = next((row for row in found if row["seed"] == seed), None)
    if chosen is None:
        raise MetabenchError(
            f"'{rows}' has no seed {seed} that succeeded: known: {', '.join(str(row['seed']) for row in found)}"
        )
    return chosen


def _same_run(trained: Trained, row: dict[str, Any]) -> bool:
    return all(trained.row[name] == row[name] for name in ("cell", "seed", "code_hash", "started_at"))


def _card(rows: Path, row: dict[str, Any], trained: Trained) -> dict[str, Any]:
    """Return what the file says of where the optimiser is from."""
    return {name: row[name] for name in _CARD} | {
        "problem_options": dict(trained.options),
        "method_options": row["method_options"],
        "certificate": _verdict(rows, row),
        row["metric"]: row["quality"],
    }


def _verdict(rows: Path, row: dict[str, Any]) -> str:
    """Return the verdict on the method in the suite's certificates, where it is of the same source; empty where there is none."""
    above = rows.resolve().parents
    path = above[min(4, len(above) - 1)] / "certificates" / f"{row['method']}.parquet"
    found = certificates(read_certificates(path)).get(row["method"]) if path.is_file() else None
    return found.verdict if found and found.method_hash == row["method_hash"] else ""


def _texts(cell: Cell, seed: int, trained: Trained) -> dict[str, str]:
    """Return the optimisers by group, with the options that the run ended with: those of a grid are its best."""
    problem = problem_of(cell, seed, load_data(cell), "cpu", cell.dtype)
    options = build(problem.card.options, trained.options, f"problem '{cell.problem}'")
    chosen = type(problem)(dataclasses.replace(problem.setting, options=options))
    assert isinstance(chosen, LearnedOptimiserProblem)
    return dict(chosen.optimisers())
