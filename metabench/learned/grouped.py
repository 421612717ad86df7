"""The inner optimiser of a problem in which it is learned: one for all parameters, or one for each group of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import OptimiserState, Tree
from metabench.learned.declared import Chosen
from metabench.learned.tasks import Tasks


@dataclass(frozen=True)
class Driver:
    """Learned optimisers by group of parameters ('' where there is one group), as one pure update.

    The meta-parameters of a group, and its slots, have the group's name before theirs. Where tasks are stacked, an update that is not
    coordinatewise is made for each task by itself.
    """

    chosen: Mapping[str, Chosen]
    tasks: Tasks

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the initial meta-parameters of all groups, in float64 on the CPU."""
        return {
            f"{group}.{name}" if group else name: leaf
            for group, one in self.chosen.items()
            for name, leaf in one.draw(stream).items()
        }

    @functools.cached_property
    def _one(self) -> InnerOptimiser:
        (one,) = self.chosen.values()
        return one.make()

    @property
    def leafwise(self) -> bool:
        """Whether each parameter tensor's update depends on no other."""
        return bool(getattr(self._one, "leafwise", False))

    @property
    def coordinatewise(self) -> bool:
        """Whether each coordinate's update depends on no other. Leaves of slots then begin with the parameter's shape."""
        return bool(getattr(self._one, "coordinatewise", False))

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate."""
        return int(getattr(self._one, "numbers_per_coordinate", 8))

    def init(self, params: Tree) -> OptimiserState:
        """Return the state before the first step of an episode."""
        return self._one.init(params)

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        return self._one.update(gradient, params, state, meta)

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return a few named numbers that describe what was learned."""
        return {"meta-parameters": float(sum(leaf.numel() for leaf in meta.values()))}
