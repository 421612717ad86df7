"""`metabench plan`: the cells of a suite and what each may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from metabench.cli.output import human_bytes, print_json, print_table
from metabench.suite.cell import Cell
from metabench.suite.code_hash import code_hash
from metabench.suite.plan import Plan

_NUMBERS = ("cells", "seeds", "time limit", "memory limit")
_COLUMNS = ("experiment", "problem", "data sets", "sizes", "inner steps", "methods", "purpose", *_NUMBERS)


def print_plan(plan: Plan, as_json: bool) -> None:
    """Print a table, a line an experiment, or as JSON every cell with its spec, the file of its rows and its code hash."""
    if as_json:
        cells = [
            {"spec": dataclasses.asdict(cell), "row_file": str(plan.row_file(cell)), "code_hash": code_hash(cell)}
            for cell in plan.cells
        ]
        print_json({"suite": plan.suite.name, "cells": cells, "rows": plan.rows})
        return
    grouped: dict[str, list[Cell]] = {name: [] for name in plan.suite.experiments}
    for cell in plan.cells:
        grouped[cell.experiment].append(cell)
    rows = [_row(name, cells) for name, cells in grouped.items()]
    print_table(f"suite '{plan.suite.name}'", _COLUMNS, rows, right=_NUMBERS)
    print(f"{len(plan.cells)} cells, {plan.rows} rows, into {plan.folder}")


def _row(name: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    if not cells:
        return (name, *[""] * 6, "0", "", "", "")
    first = cells[0]
    return (
        name,
        first.problem,
        _distinct([cell.dataset for cell in cells]),
        _distinct([cell.size for cell in cells]),
        _distinct([str(cell.inner_steps) for cell in cells]),
        _distinct([cell.method for cell in cells]),
        first.purpose,
        str(len(cells)),
        str(len(first.seeds)),
        f"{first.limit_seconds:g} s",
        human_bytes(first.limit_bytes),
    )


def _distinct(values: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(values))
