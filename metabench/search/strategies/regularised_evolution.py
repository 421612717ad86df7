"""Evolution in which the oldest die: a child of the best of a few, one gene changed, replaces the oldest. Real et al. 2019."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metabench.core.options import option
from metabench.models.search_space import Space
from metabench.search.strategy import Strategy, StrategyCard


@dataclass(frozen=True)
class Options:
    """Options of `regularised_evolution`."""

    population: int = option(10, minimum=2, help="nets that live")
    sample: int = option(4, minimum=1, help="of them, drawn, the best of which has a child")


class RegularisedEvolution(Strategy):
    """Keeps the youngest nets."""

    card = StrategyCard("regularised evolution: the oldest die", citation="real2019regularized", options=Options)

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        super().__init__(space, budget, seed, options)
        self._living: deque[tuple[str, float]] = deque(maxlen=options.population)
        self._first = space.drawn(seed, "first population")
        self._asked = 0

    @classmethod
    def fewest(cls, options: Any) -> int:
        """Return the size of a population."""
        return int(options.population)

    def ask(self, n: int) -> Sequence[str]:
        """Return the first population, then children."""
        found = []
        for _ in range(n):
            if self._asked < self.options.population:
                net = next(self._first, None)
            elif not self._living:
                return found
            else:
                places = self.stream.integers(len(self._living), size=self.options.sample)
                parent = max((self._living[int(place)] for place in places), key=lambda one: one[1])[0]
                near = self.space.neighbours(parent)
                net = near[int(self.stream.integers(len(near)))]
            if net is None:
                return found
            found.append(net)
            self._asked += 1
        return found

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Add nets to the living; the oldest make room."""
        self._living.extend(zip(encodings, fitness, strict=True))
