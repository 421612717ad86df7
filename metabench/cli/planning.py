"""`metabench plan`: the cells of a suite and their limits, and with predictions, what each will use."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from metabench.cli.output import human_bytes, print_json, print_table
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.labels import kind_of, kind_options
from metabench.suite.plan.plan import Plan
from metabench.suite.predict.predictions import CellPrediction, unfit

_NUMBERS = ("cells", "seeds", "time limit", "memory limit")
_COLUMNS = ("experiment", "problem", "data sets", "sizes", "inner steps", "methods", "kind", *_NUMBERS)
_PREDICTED = ("predicted peak", "static", "dynamic", "FLOPs")
_CELL_COLUMNS = ("experiment", "cell", "inner steps", "options", *_PREDICTED, "fits")


def print_plan(
    plan: Plan, as_json: bool, predicted: Sequence[CellPrediction] | None = None, speed: float | None = None
) -> None:
    """Print a table, one line per experiment, or as JSON every cell with its spec, the file of its rows and its code hash.

    predicted: what each cell is predicted to need, in plan order. The table then has one line per cell, and says whether it fits.
    speed: TFLOP/s at which the hours of a cell are counted; None: they are not.
    """
    if as_json:
        cells: list[dict[str, Any]] = [
            {"spec": dataclasses.asdict(cell), "row_file": str(plan.row_file(cell)), "code_hash": code_hash(cell)}
            for cell in plan.cells
        ]
        if predicted is not None:
            for entry, cell, found in zip(cells, plan.cells, predicted, strict=True):
                entry["prediction"] = dataclasses.asdict(found)
                entry["fits_limit"], entry["fits_device"] = _fits(cell, found)
                entry["training_flops"] = training_flops(cell, found)
        groups = [{"name": group.name, "cells": [cell.hash for cell in group.cells]} for group in plan.groups]
        print_json({"suite": plan.suite.name, "cells": cells, "rows": plan.rows, "groups": groups})
        return
    if predicted is None:
        grouped: dict[str, list[Cell]] = {name: [] for name in plan.suite.experiments}
        for cell in plan.cells:
            grouped[cell.experiment].append(cell)
        rows = [_row(name, cells) for name, cells in grouped.items()]
        print_table(f"suite '{plan.suite.name}'", _COLUMNS, rows, right=_NUMBERS)
    else:
        timed = () if speed is None else (f"hours at {speed:g} TFLOP/s",)
        columns = (*_CELL_COLUMNS[:-1], *timed, _CELL_COLUMNS[-1])
        lines = [_cell_row(cell, found, speed) for cell, found in zip(plan.cells, predicted, strict=True)]
        print_table(f"suite '{plan.suite.name}'", columns, lines, right=("inner steps", *_PREDICTED, *timed))
        print(_predicted_words(plan.cells, predicted))
        for note, number in Counter(found.note for found in predicted if found.note).items():
            print(f"note: {number} predicted too low: {note}")
    number = len(plan.groups)
    timed = f", timed in {number} group{'s' if number > 1 else ''}" if number else ""
    print(f"{len(plan.cells)} cells, {plan.rows} rows{timed}, into {plan.folder}")


def _row(name: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    first = cells[0]
    return (
        name,
        first.problem,
        _distinct([cell.dataset for cell in cells]),
        _distinct([cell.size for cell in cells]),
        _distinct([str(cell.inner_steps) for cell in cells]),
        _distinct([f"{cell.method}{_again(cell)}" for cell in cells]),
        first.kind,
        str(len(cells)),
        str(len(first.seeds)),
        f"{first.limit_seconds:g} s",
        human_bytes(first.limit_bytes),
    )


def training_flops(cell: Cell, found: CellPrediction) -> int:
    """Return the FLOPs of the hypergradients by which a cell trains, all seeds together; 0 where there are none, or none is predicted."""
    kind = kind_of(cell)
    if kind.hypergradients is None:
        number = cell.outer_steps * found.tasks
    else:
        number = kind.hypergradients(kind_options(cell), cell.problem_options, cell.outer_steps, found.tasks)
    return found.flops * number * len(cell.seeds)


def _cell_row(cell: Cell, found: CellPrediction, speed: float | None) -> tuple[str, ...]:
    head = (
        cell.experiment,
        f"{cell.problem}/{cell.dataset}/{cell.size}/{cell.stem}{_again(cell)}",
        str(cell.inner_steps),
        ", ".join(f"{name}={value}" for name, value in cell.method_options.items()) or "-",
    )
    timed = () if speed is None else (f"{training_flops(cell, found) / speed / 3.6e15:.3g}" if found.flops else "-",)
    if found.message:
        return (*head, "?", "?", "?", "?", *timed, f"not predicted: {found.message}")
    sizes = (human_bytes(size) for size in (found.peak_bytes, found.static_bytes, found.dynamic_bytes))
    return (*head, *sizes, f"{found.flops:.3g}", *timed, _verdict(cell, found))


def _verdict(cell: Cell, found: CellPrediction) -> str:
    within, fits = _fits(cell, found)
    if fits is False:
        return f"NO: {unfit(cell, found)}; it will not be started"
    if within and found.note:
        return "perhaps: predicted too low, see below"
    return "yes" if within else f"NO: the limit is {human_bytes(cell.limit_bytes)}; it will end as oom"


def _fits(cell: Cell, found: CellPrediction) -> tuple[bool | None, bool | None]:
    """Return whether a cell stays within its limit and its device; None where nothing is predicted or declared."""
    if found.message:
        return None, None
    return found.peak_bytes <= cell.limit_bytes, not unfit(cell, found) if cell.device_bytes else None


def _predicted_words(cells: Sequence[Cell], predicted: Sequence[CellPrediction]) -> str:
    verdicts = [_fits(cell, found) for cell, found in zip(cells, predicted, strict=True)]
    known = sum(within is not None for within, _ in verdicts)
    unfitting = sum(fits is False for _, fits in verdicts)
    past = sum(within is False and fits is not False for within, fits in verdicts)
    parts = [f"{known} of {len(cells)} cells predicted"]
    parts += [f"{unfitting} do not fit the device"] if unfitting else []
    parts += [f"{past} pass their memory limit"] if past else []
    return ", ".join(parts)


def _again(cell: Cell) -> str:
    return " again" if cell.replicate else ""


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
