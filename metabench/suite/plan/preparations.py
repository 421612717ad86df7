"""What problems prepare once for many cells, such as Gram matrices: each has a job of its own, before the cells that need it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.options import build
from metabench.problems import problem
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import problem_hash


@dataclass(frozen=True)
class Preparation:
    """What the problem of a cell prepares for one seed; for any cell that agrees with it, it is the same.

    Attributes:
        cell: one of those that need it.
        seed: one of its seeds.
        settings: on which it depends, by `Problem.prepares`.
    """

    cell: Cell
    seed: int
    settings: dict[str, Any]

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits over all that decides it: the source of the problem, too."""
        cell = self.cell
        code = problem_hash(cell.problem, tuple(cell.plugins))
        identity = (cell.problem, cell.dataset, self.settings, self.seed, cell.device, cell.kernels, cell.threads, code)
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """The line that says what is prepared."""
        return f"{self.cell.problem}/{self.cell.dataset}/{self.cell.size} · seed {self.seed}"


def preparation(cell: Cell, seed: int) -> Preparation | None:
    """Return what a cell's problem prepares for a seed; None if it prepares nothing."""
    kind = problem(cell.problem, cell.plugin_files)
    settings = kind.prepares(cell.size, build(kind.card.options, cell.problem_options, f"problem '{cell.problem}'"))
    return Preparation(cell, seed, dict(settings)) if settings else None


def preparations(cells: Iterable[Cell]) -> dict[str, Preparation]:
    """Return all that the problems of cells prepare, by hash, each once."""
    found: dict[str, Preparation] = {}
    for cell in cells:
        for seed in cell.seeds:
            if one := preparation(cell, seed):
                found.setdefault(one.hash, one)
    return found


def folder_of(prepared: Path | None, cell: Cell, seed: int) -> Path | None:
    """Return the folder of what a cell's problem prepares for a seed, in that of all preparations of a suite; None if there is none."""
    found = preparation(cell, seed) if prepared else None
    return prepared / found.hash if prepared and found else None
