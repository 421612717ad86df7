"""Groups: the cells of one setting, which are timed side by side, in rounds."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.kinds import kind
from metabench.suite.plan.cell import Cell

GROUP_VERSION = 2


@dataclass(frozen=True)
class Group:
    """Cells that differ only in their method, or in what else is done with them, and how they are timed.

    Attributes:
        name: experiment-hash, of the setting: further members do not change it.
        row_files: one per cell.
        rounds: in how many rounds they take turns.
        baseline: the method to which ratios refer.
    """

    name: str
    cells: tuple[Cell, ...]
    row_files: tuple[Path, ...]
    rounds: int
    baseline: str

    def to_json(self) -> str:
        """Return the group as text, with the specs of its cells."""
        values = {"version": GROUP_VERSION, **self._identity(), "cells": [dataclasses.asdict(cell) for cell in self.cells]}
        return json.dumps(values, indent=1, sort_keys=True) + "\n"

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits over its members and how they are timed."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()[:12]

    def _identity(self) -> dict[str, Any]:
        files = [str(path) for path in self.row_files]
        return {"name": self.name, "rounds": self.rounds, "baseline": self.baseline, "row_files": files}

    @classmethod
    def read(cls, path: Path) -> Group:
        """Return the group of a file; raise MetabenchError if it or the spec of a cell is invalid."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or values.pop("version", None) != GROUP_VERSION:
                raise MetabenchError(f"group '{path}': not a group of version {GROUP_VERSION}: plan the suite again")
            files = tuple(map(Path, values.pop("row_files")))
            cells = tuple(Cell.from_json(json.dumps(spec), f"group '{path}'") for spec in values.pop("cells"))
            return cls(cells=cells, row_files=files, **values)
        except OSError as error:
            raise MetabenchError(f"group '{path}': '{error.filename}' cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise MetabenchError(f"group '{path}': not a group's file: {error}") from error


def settings(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Return the cells whose kind measures time by the name of their setting, in plan order."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if measures_time(cell):
            found.setdefault(_setting(cell), []).append(cell)
    return found


def measures_time(cell: Cell) -> bool:
    """Tell whether a cell's kind of experiment measures the time of a hypergradient."""
    return _measures_time(cell.kind, cell.plugin_files)


@functools.cache
def _measures_time(name: str, plugins: tuple[Path, ...]) -> bool:
    return "time_median_s" in kind(name, plugins).columns


def _setting(cell: Cell) -> str:
    identity = (cell.problem, cell.dataset, cell.size, cell.problem_options, cell.inner_steps, cell.dtype, cell.device)
    text = json.dumps(identity, sort_keys=True)
    return f"{cell.experiment}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
