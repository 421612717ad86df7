"""The meta-update: from a hypergradient and the meta-parameters to the next ones.

The inner optimisers serve here, too: the first use of torch.optim imports the compiler, which costs 1.7 s per cell.
"""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.optimisers import Adam, Momentum, scheduled
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser
from metabench.core.types import OptimiserState, Tree

ROUNDING = 1e-6
"""Added to a norm before it divides, as in torch.nn.utils.clip_grad_norm_."""


@dataclass(frozen=True)
class OuterUpdate:
    """An outer optimiser as a pure function: its state is an argument and a result, trees of tensors by name, which a file can hold.

    Equal to torch.optim with a torch.optim.lr_scheduler, and clip_grad_norm_ before each step.
    """

    settings: OuterOptimiser

    @property
    def _optimiser(self) -> Adam | Momentum:
        settings = self.settings
        rate = scheduled(settings.learning_rate, settings.schedule)
        if settings.name == "Adam":
            return Adam(rate, weight_decay=settings.weight_decay)
        return Momentum(rate, settings.momentum, settings.nesterov, settings.weight_decay)

    def init(self, meta: Tree) -> OptimiserState:
        """Return the state before the first meta-update."""
        return self._optimiser.init(meta)

    def update(self, hypergradient: Tree, meta: Tree, state: OptimiserState) -> tuple[Tree, OptimiserState]:
        """Return the next meta-parameters and state, without a graph; nothing is changed in place."""
        with torch.no_grad():
            return self._optimiser.update(clipped(hypergradient, self.settings.clip), meta, state, meta)


def clipped(hypergradient: Tree, norm: float | None) -> Tree:
    """Return the hypergradient, shortened to a global norm of `norm` where it is longer; as it is if that is None."""
    if norm is None:
        return hypergradient
    return tree.scale((norm / (tree.norm(hypergradient) + ROUNDING)).clamp(max=1), hypergradient)
