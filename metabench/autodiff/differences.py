"""Means of differences along random directions: the common part of evolution-strategy estimators."""

from __future__ import annotations

from metabench.core import tree
from metabench.core.types import Tree


class PairedMean:
    """The mean of `pairs` terms slope_i * direction_i, and its standard error.

    Attributes:
        value: the sum of the terms so far, divided by `pairs`.
    """

    def __init__(self, like: Tree, pairs: int) -> None:
        self.value = tree.zeros_like(like)
        self._pairs = pairs
        self._squares = 0.0

    def add(self, slope: float, direction: Tree) -> None:
        """Add a term."""
        self.value = tree.add_scaled(self.value, slope / self._pairs, direction)
        self._squares += slope**2 * float(tree.dot(direction, direction))

    def spread(self) -> dict[str, float]:
        """Return the standard error of the mean over its norm, under 'spread'; nothing if it is undefined."""
        squared = float(tree.dot(self.value, self.value))
        if self._pairs < 2 or not squared > 0:
            return {}
        variance = max(self._squares - self._pairs * squared, 0.0) / (self._pairs - 1)
        return {"spread": (variance / self._pairs / squared) ** 0.5}
