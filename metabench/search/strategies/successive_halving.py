"""Successive halving over tasks: many nets on few tasks, the better ones on more, the best on all. Jamieson & Talwalkar 2016."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metabench.core.options import option
from metabench.models.search_space import Space
from metabench.search.strategy import Strategy, StrategyCard


@dataclass(frozen=True)
class Options:
    """Options of `successive_halving`."""

    factor: int = option(3, minimum=2, help="one net of this many goes on, and sees this many times as many tasks")
    rungs: int = option(3, minimum=2, help="rungs of tasks; the last has all of them")


class SuccessiveHalving(Strategy):
    """Brackets of random nets, as many as the budget pays for."""

    card = StrategyCard("successive halving over tasks", citation="jamieson2016successive", options=Options)

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        super().__init__(space, budget, seed, options)
        self._size = options.factor ** (options.rungs - 1)
        self._fresh = space.drawn(seed, "brackets")
        self._rung, self._waiting, self._found = options.rungs, [], {}

    @classmethod
    def fewest(cls, options: Any) -> int:
        """Return what a bracket costs where tasks are all that is paid for: as much on each rung. With training it costs up to its nets."""
        return int(options.rungs)

    def ask(self, n: int) -> Sequence[str]:
        """Return nets of the present rung; none while answers are missing."""
        if not self._waiting and len(self._found) == self._expected():
            self._climb()
        found, self._waiting = self._waiting[:n], self._waiting[n:]
        return found

    def _expected(self) -> int:
        return len(self._nets) if self._rung < self.options.rungs else len(self._found)

    def _climb(self) -> None:
        """Go to the next rung with the best, or begin a bracket."""
        if self._rung + 1 < self.options.rungs:
            ordered = sorted(self._found, key=lambda net: -self._found[net])
            self._nets, self._rung = ordered[: max(1, len(ordered) // self.options.factor)], self._rung + 1
        else:
            self._nets, self._rung = [net for net, _ in zip(self._fresh, range(self._size), strict=False)], 0
        self._waiting, self._found = list(self._nets), {}

    def part(self, encoding: str) -> float:
        """Return the part of the tasks on the present rung."""
        return float(self.options.factor ** -(self.options.rungs - 1 - self._rung))

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Keep the answers of the present rung."""
        for net, value in zip(encodings, fitness, strict=True):
            if self._rung < self.options.rungs and net in self._nets:
                self._found[net] = value
