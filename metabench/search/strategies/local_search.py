"""Hill climbing: the neighbours of the best net in a random order, a step as soon as one is better, a new start where none is.

White et al. 2021 look at all neighbours before each step; a step at the first that is better needs fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metabench.models.search_space import Space
from metabench.search.strategy import Strategy, StrategyCard


class LocalSearch(Strategy):
    """Climbs from random starts."""

    card = StrategyCard("hill climbing with restarts", citation="white2021exploring")

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        super().__init__(space, budget, seed, options)
        self._starts = space.drawn(seed, "starts")
        self._here: tuple[str, float] | None = None
        self._left: list[str] = []
        self._seen: set[str] = set()

    def ask(self, n: int) -> Sequence[str]:
        """Return neighbours that were not looked at; where there are none, a new start."""
        while self._left:
            net = self._left.pop()
            if net not in self._seen:
                self._seen.add(net)
                return [net]
        self._here = None
        for net in self._starts:
            if net not in self._seen:
                self._seen.add(net)
                return [net]
        return []

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Go where it is better."""
        for net, value in zip(encodings, fitness, strict=True):
            self._seen.add(net)
            if self._here is None or value > self._here[1]:
                self._here = (net, value)
                near = self.space.neighbours(net)
                self._left = [near[int(i)] for i in self.stream.permutation(len(near))]
