"""How close the predicted peak memory of cells is to the measured one: a table, and one last line of JSON.

    python benchmarks/prediction.py                                    # the suites that ship, each cell predicted and measured
    python benchmarks/prediction.py config/config.yaml                 # some suites
    python benchmarks/prediction.py --rows results/reference/results.parquet config/config.yaml   # against rows that are there

A cell is measured as `metabench run` does it: one hypergradient at the checkpoint, after one that is not counted, at the first seed. Cells
that refuse, fail or pass their memory limit have no measured peak and do not count; one that is measured and not predicted counts as off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import load_suite, plan

ROOT = Path(__file__).resolve().parents[1]
SUITES = [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "suites").glob("*.yaml"))]
CLOSE = 0.05
"""The relative error up to which a prediction counts as right."""


@dataclass(frozen=True)
class Compared:
    """A cell, what was predicted and what was measured, in bytes; 0 where there is no number. message: why, or what is not counted."""

    cell: Cell
    predicted: int
    measured: int
    seconds: float
    message: str

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def close(self) -> bool:
        """Whether the prediction lies within CLOSE of what was measured."""
        return abs(self.ratio - 1) <= CLOSE


def main() -> None:
    """Compare, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "suites", nargs="*", type=Path, default=SUITES, help="YAML files; those that ship if none is given"
    )
    parser.add_argument("--rows", type=Path, help="a Parquet file of rows whose peaks are used instead of measuring")
    parser.add_argument("--cells", default="", help="only cells whose name has this in it, as 'problem size method'")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no measurement after so many seconds"
    )
    given = parser.parse_args()
    known = _rows(given.rows) if given.rows else None
    figures: dict[str, Any] = {}
    for suite in given.suites:
        found = list(_suite(suite, given.cells, known, given.seconds))
        figures[suite.stem] = _figures(found)
        _print(suite.stem, found)
    print(json.dumps(figures))


def _suite(path: Path, named: str, known: dict[str, int] | None, seconds: float) -> Iterator[Compared]:
    from metabench.suite.predict.one_cell import predict

    begun = time.perf_counter()
    for cell in plan(load_suite(path)).cells:
        if named not in f"{cell.problem} {cell.size} {cell.method}":
            continue
        start = time.perf_counter()
        prediction = predict(cell)
        took = time.perf_counter() - start
        if known is not None:
            measured, message = known.get(cell.hash, 0), "" if cell.hash in known else "no row"
        elif time.perf_counter() - begun > seconds:
            measured, message = 0, "not measured: out of time"
        elif prediction.message or prediction.peak_bytes > 1.5 * cell.limit_bytes:
            # What refuses is asked all the same; what cannot fit is not started.
            measured, message = _measured(cell) if prediction.message else (0, "cannot fit its limit")
        else:
            measured, message = _measured(cell)
        yield Compared(cell, prediction.peak_bytes, measured, took, prediction.message or message or prediction.note)


def _measured(cell: Cell) -> tuple[int, str]:
    """Return the peak bytes of the cell's first seed as its row would have them, or 0 and why there are none."""
    from metabench.suite.run.run_cell import run_cell

    # No time, error or quality: the memory is measured before them.
    settings = cell.measure | {"time_repeats": 0, "error_windows": 0}
    (row,) = run_cell(replace(cell, kind="cost", seeds=cell.seeds[:1], measure=settings), lambda *progress: None)
    return row.get("peak_bytes") or 0, row["message"]


def _rows(path: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=["cell", "seed", "peak_bytes"]).to_pylist()
    return {row["cell"]: row["peak_bytes"] for row in reversed(columns) if row["peak_bytes"]}


def _figures(found: list[Compared]) -> dict[str, Any]:
    counted = [one for one in found if one.measured]
    times = [one.seconds for one in found]
    if not counted:
        return {"cells": len(found), "measured": 0}
    errors = sorted(abs(one.ratio - 1) for one in counted)
    return {
        "cells": len(found),
        "measured": len(counted),
        "share_within_5_percent": sum(one.close for one in counted) / len(counted),
        "exact": sum(one.predicted == one.measured for one in counted),
        "median_error": statistics.median(errors),
        "largest_error": errors[-1],
        "median_seconds": statistics.median(times),
        "largest_seconds": max(times),
    }


def _print(name: str, found: list[Compared]) -> None:
    table = Table("cell", "K", "predicted", "measured", "ratio", "seconds", "", title=f"suite '{name}'")
    for one in found:
        cell = one.cell
        ratio = f"{one.ratio:.4f}" if one.measured else ""
        words = one.message if not one.measured else "" if one.close else f"off {one.message}"
        options = ", ".join(f"{key}={value}" for key, value in cell.method_options.items())
        table.add_row(
            f"{cell.problem} {cell.size} {cell.method} {options}"[:70],
            str(cell.inner_steps),
            f"{one.predicted:,}",
            f"{one.measured:,}",
            ratio,
            f"{one.seconds:.2f}",
            words[:60],
        )
    Console(width=170).print(table)
    figures = _figures(found)
    if figures["measured"]:
        print(
            f"{figures['share_within_5_percent']:.1%} of {figures['measured']} within 5 %, {figures['exact']} to the byte"
        )


if __name__ == "__main__":
    main()
