"""Shards: parts of a suite that run apart, on several allocations or clusters, and are merged afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.suite.plan.cell import Cell

_SHARD = re.compile(r"(\d{1,5})/(\d{1,5})")


@dataclass(frozen=True)
class Shard:
    """Shard `number`, from 1, of `total`."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as '3/16'; raise MetabenchError for any other."""
        match = _SHARD.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise MetabenchError(f"key 'shard' is '{text}': expected a number and how many there are, as '3/16'")
        return cls(int(match[1]), int(match[2]))

    @property
    def folder(self) -> str:
        """The name of its folder in that of the suite."""
        return f"shard-{self.number}-of-{self.total}"

    def of(self, cells: Iterable[Cell]) -> tuple[Cell, ...]:
        """Return the cells of this shard, in their order; raise MetabenchError if there are none.

        Cells that differ only in their method stay together: their times are compared, which only those of one machine can be.
        """
        cells = tuple(cells)
        compared: dict[str, list[Cell]] = {}
        for cell in cells:
            compared.setdefault(_compared(cell), []).append(cell)
        loads = [0] * self.total
        own: set[str] = set()
        # The largest first, each to whom has least so far.
        for name, members in sorted(compared.items(), key=lambda item: (-_rows(item[1]), item[0])):
            least = loads.index(min(loads))
            loads[least] += _rows(members)
            if least + 1 == self.number:
                own.add(name)
        chosen = tuple(cell for cell in cells if _compared(cell) in own)
        if not chosen:
            raise MetabenchError(
                f"shard {self.number}/{self.total} has no cells: the suite has {len(compared)} settings whose methods are compared, "
                "and so that many shards at most"
            )
        return chosen


def _rows(cells: Iterable[Cell]) -> int:
    return sum(len(cell.seeds) for cell in cells)


def _compared(cell: Cell) -> str:
    setting = (cell.experiment, cell.problem, cell.dataset, cell.size, cell.problem_options, cell.inner_steps, cell.dtype)
    return json.dumps(setting, sort_keys=True)
