"""The matrix of implicit differentiation, d2f/dw2 + shift I, as products with one direction or with several at once.

If the problem offers segments, products are computed in mixed mode, segment by segment: in the memory of one segment, for about 1.5 times
the arithmetic of a product with a recorded graph. Otherwise that graph is recorded once.
"""

from __future__ import annotations

from collections.abc import Callable

from metabench.autodiff.derivatives import by_segments
from metabench.autodiff.gradients import gradients
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Batch, Tree


class DampedHessian:
    """v -> (d2f/dw2 + shift I) v at (params, meta) on a batch."""

    def __init__(self, problem: Problem, params: Tree, meta: Tree, batch: Batch, shift: float = 0.0) -> None:
        self._params, self._shift = tree.leaves_for_grad(params), shift
        self._by_segments: Callable[[Tree], Tree] | None = None
        if derivatives := by_segments(problem, params, meta, batch):
            zero = tree.zeros_like(params)
            self._by_segments = lambda direction: derivatives.products(
                params, meta, batch, direction, into=dict(zero), mixed=False
            )[0]
            return
        with torch.enable_grad():
            loss = problem.inner_loss(self._params, tree.detach(meta), batch)
            (self._slope,) = gradients(loss, [self._params], create_graph=True)

    def __call__(self, direction: Tree) -> Tree:
        """Return the product with one direction."""
        if self._by_segments is not None:
            return self._shifted(self._by_segments(direction), direction)
        weights = list(direction.values())
        (image,) = gradients(list(self._slope.values()), [self._params], weights, retain_graph=True)
        return self._shifted(image, direction)

    def rows(self, directions: torch.Tensor) -> torch.Tensor:
        """Return the products with directions given as flat rows, shape [n, |w|], as such rows.

        Several directions share one vectorised backward pass (vmap) of a recorded graph, with the memory of n products at once.
        """
        if self._by_segments is not None:
            products = [self(tree.unflatten(row, self._params)) for row in directions]
            return torch.stack([tree.flatten(product) for product in products])
        if len(directions) == 1:
            return tree.flatten(self(tree.unflatten(directions[0], self._params)))[None]
        pieces = directions.split([leaf.numel() for leaf in self._params.values()], dim=1)
        stacked = {
            name: piece.reshape(len(directions), *leaf.shape) for (name, leaf), piece in zip(self._params.items(), pieces, strict=True)
        }
        # A slope that is constant in the parameters has no graph to go back through.
        reached = [name for name, leaf in self._slope.items() if leaf.requires_grad]
        found: tuple[torch.Tensor | None, ...] = (None,) * len(stacked)
        if reached:
            found = torch.autograd.grad(
                [self._slope[name] for name in reached],
                list(self._params.values()),
                [stacked[name] for name in reached],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
        images = {
            name: torch.zeros_like(stacked[name]) if leaf is None else leaf
            for name, leaf in zip(stacked, found, strict=True)
        }
        return torch.cat([leaf.reshape(len(directions), leaf[0].numel()) for leaf in self._shifted(images, stacked).values()], dim=1)

    def _shifted(self, image: Tree, direction: Tree) -> Tree:
        return tree.add_scaled(image, self._shift, direction) if self._shift else image
