"""Times of cells that took turns: a ratio of two is taken within each round, so that what slows a round slows both."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metabench.results.times import TIMES_FILE, read_times

Turn = tuple[Any, ...]
"""Group, part, seed and round."""


class Rounds:
    """The seconds of each cell by round; none where the rows have no times.parquet beside them. Raises as `read_times`."""

    def __init__(self, results: Path) -> None:
        self._seconds: dict[str, dict[Turn, float]] = {}
        path = results.with_name(TIMES_FILE)
        if not path.is_file():
            return
        for line in read_times(path).select(["cell", "group", "part", "seed", "round", "seconds"]).to_pylist():
            if line["seconds"]:
                turn = (line["group"], line["part"], line["seed"], line["round"])
                self._seconds.setdefault(line["cell"], {})[turn] = line["seconds"]

    def ratio(self, ours: Iterable[str], theirs: Iterable[str]) -> float | None:
        """Return the median over shared rounds of the time of some cells over that of others; None if they share none."""
        numerator, denominator = self._of(ours), self._of(theirs)
        ratios = [seconds / denominator[turn] for turn, seconds in numerator.items() if turn in denominator]
        return statistics.median(ratios) if ratios else None

    def _of(self, cells: Iterable[str]) -> dict[Turn, float]:
        return {turn: seconds for cell in cells for turn, seconds in self._seconds.get(cell, {}).items()}
