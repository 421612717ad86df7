"""Random search without replacement: what every search has to beat."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from metabench.models.search_space import Space
from metabench.search.strategy import Strategy, StrategyCard


class RandomSearch(Strategy):
    """Draws nets, each at most once."""

    card = StrategyCard("random search without replacement", citation="bergstra2012random", name="random")

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        super().__init__(space, budget, seed, options)
        self._nets = space.drawn(seed, "random search")

    def ask(self, n: int) -> Sequence[str]:
        """Return the next nets."""
        return list(itertools.islice(self._nets, n))

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Learn nothing."""
