"""Batches: cells that one job runs, one after another, in a process that has imported torch once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from metabench.suite.plan.cell import Cell


@dataclass(frozen=True)
class Batch:
    """Cells of one experiment, `name` tells which: EXPERIMENT-HASH."""

    name: str
    cells: tuple[Cell, ...]


def batches(cells: Iterable[Cell], size: int) -> tuple[Batch, ...]:
    """Return batches of at most `size` cells, in plan order; none where that is 1. Those of a batch need the same process."""
    if size == 1:
        return ()
    found: list[Batch] = []
    for (experiment, *_), group in itertools.groupby(cells, _process):
        members = list(group)
        for start in range(0, len(members), size):
            part = tuple(members[start : start + size])
            names = "\n".join(cell.name for cell in part)
            found.append(Batch(f"{experiment}-{hashlib.sha256(names.encode()).hexdigest()[:8]}", part))
    return tuple(found)


def _process(cell: Cell) -> tuple[str, ...]:
    """Return what the cells of a batch share: what is chosen before torch is imported, and cannot be chosen again."""
    return (cell.experiment, cell.kernels, str(cell.threads), cell.device)
