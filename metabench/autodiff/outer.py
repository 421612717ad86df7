"""The outer update as a pure function.

The pure optimisers serve here too: the first use of torch.optim imports the compiler, which costs 1.7 s per cell.
"""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.optimisers import Adam, Momentum
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser, OuterOptimiser
from metabench.core.types import OptimiserState, Tree


@dataclass(frozen=True)
class OuterUpdate:
    """The update of the meta-parameters by a hypergradient."""

    settings: OuterOptimiser

    def init(self, meta: Tree) -> OptimiserState:
        """Return the state before the first update."""
        return self._optimiser.init(meta)

    def update(self, hypergradient: Tree, meta: Tree, state: OptimiserState) -> tuple[Tree, OptimiserState]:
        """Return the next meta-parameters and state."""
        with torch.no_grad():
            return self._optimiser.update(hypergradient, meta, state, meta)

    @property
    def _optimiser(self) -> InnerOptimiser:
        settings = self.settings
        if settings.name == "Adam":
            return Adam(settings.learning_rate, weight_decay=settings.weight_decay)
        return Momentum(settings.learning_rate, settings.momentum, settings.nesterov, settings.weight_decay)
