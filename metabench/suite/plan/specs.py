"""cells.jsonl: the specs of a suite's cells in one file, a line each, which jobs read instead of planning the suite."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError, missing_file
from metabench.suite.plan.cell import Cell


def specs_text(cells: Iterable[Cell], batches: Callable[[Cell], str]) -> str:
    """Return the file's text; `batches` returns the name of a cell's batch, or ''."""
    return "".join(
        json.dumps({"cell": cell.name, "batch": batches(cell), "spec": dataclasses.asdict(cell)}, sort_keys=True) + "\n"
        for cell in cells
    )


def read_spec(specs: Path, name: str) -> Cell:
    """Return the cell PROBLEM/DATASET/SIZE/METHOD-HASH; raise MetabenchError if the file has none, or cannot be read."""
    found = _read(specs, "cell", name)
    if not found:
        raise MetabenchError(f"'{specs}' has no cell '{name}': `metabench plan --json` lists those of a suite")
    return found[0]


def read_batch(specs: Path, name: str) -> list[Cell]:
    """Return the cells of a batch; raise MetabenchError if the file has none, or cannot be read."""
    found = _read(specs, "batch", name)
    if not found:
        raise MetabenchError(f"'{specs}' has no batch '{name}': plan the suite again")
    return found


def _read(specs: Path, key: str, name: str) -> list[Cell]:
    # Thousands of lines: only those that hold the name are parsed.
    held = json.dumps(name).encode()
    try:
        with open(specs, "rb") as file:
            lines = [_parsed(line, specs) for line in file if held in line]
    except FileNotFoundError:
        raise missing_file("specs", specs) from None
    except OSError as error:
        raise MetabenchError(f"specs '{specs}' cannot be read: {error.strerror}") from error
    return [
        Cell.from_json(json.dumps(line.get("spec")), f"{specs}, cell '{line.get('cell')}'") for line in lines if line.get(key) == name
    ]


def _parsed(line: bytes, specs: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise MetabenchError(f"specs '{specs}': a line is no JSON ({error}): plan the suite again") from error
    return found if isinstance(found, dict) else {}
