"""Types used throughout the package."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from metabench.core.lazy import torch

Tree: TypeAlias = "dict[str, torch.Tensor]"
"""Parameters, meta-parameters or their gradients: tensors by name. The order of the names is part of the value."""

OptimiserState: TypeAlias = "dict[str, Tree]"
"""Slots of an inner optimiser ('momentum', 'second_moment', 'step', ...), each a tree."""

Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called with what runs, how much of it is done, and of how much (0: unknown)."""

Batch: TypeAlias = "Mapping[str, torch.Tensor]"
"""The data that a loss needs: tensors by name, first dimension the examples. Only the problem that made it reads it."""


def once(params: Tree) -> Iterator[Tree | None]:
    """Yield what the windows of one endless inner run begin with: `params`, then None for ever."""
    return itertools.chain([params], itertools.repeat(None))


@dataclass(frozen=True)
class InnerState:
    """The state of an inner run: parameters, the inner optimiser's state, and what a method keeps. None of them carries a graph.

    `memory` holds trees by name that a method needs at the next window of the same inner run: a solver's last solution, the
    perturbed copies of a run. A method finds there what it returned, or nothing: a new inner run starts with an empty memory, unless the
    method keeps it longer (`metabench.core.method.Keeps`). `metabench.core.memory` reads it.
    """

    params: Tree
    optimiser: OptimiserState
    memory: Mapping[str, Tree] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The data of one hypergradient: K inner batches, the batches of the outer losses due during them, and whether a run begins.

    `inner[k]` drives inner step k, from w_k to w_{k+1}. `outer[k]` is the batch of the outer loss at w_{k+1}, or None if no
    outer loss is due there; the window's outer objective is the sum of all outer losses due. Most problems have one, at the end.
    `begins` holds initial parameters where a new inner run begins with this window, None where the run before it continues.
    """

    inner: tuple[Batch, ...]
    outer: tuple[Batch | None, ...]
    begins: Tree | None = None

    def __post_init__(self) -> None:
        if not self.inner:
            raise ValueError("a window needs at least one inner step")
        if len(self.inner) != len(self.outer):
            raise ValueError(f"a window of {len(self.inner)} inner steps has {len(self.outer)} places for outer losses")
        if all(batch is None for batch in self.outer):
            raise ValueError("a window needs at least one outer loss")

    @classmethod
    def ending_in(cls, inner: tuple[Batch, ...], outer: Batch, begins: Tree | None = None) -> Window:
        """Return the window whose only outer loss comes after its last inner step."""
        return cls(inner, (None,) * (len(inner) - 1) + (outer,), begins)

    def last(self, steps: int) -> Window:
        """Return the window of the last `steps` inner steps and the outer losses due in them; raise ValueError if there are none.

        No run begins with it: the state before these steps is that of the window's own run.
        """
        if steps < 1:
            raise ValueError(f"a window of the last {steps} steps has none")
        return Window(self.inner[-steps:], self.outer[-steps:])
