"""Second-order products of the inner loss f(w, l), never a matrix: (d2f/dw2) v and (d2f/dl dw) v, exact or by differences."""

from __future__ import annotations

from collections.abc import Callable

from metabench.autodiff.gradients import gradients, inner_meta_gradient
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Batch, Tree


def mixed_product(problem: Problem, params: Tree, meta: Tree, batch: Batch, direction: Tree) -> Tree:
    """Return (d2f/dl dw) v alone, by reverse over reverse."""
    params, meta = tree.leaves_for_grad(params), tree.leaves_for_grad(meta)
    with torch.enable_grad():
        (inner,) = gradients(problem.inner_loss(params, meta, batch), [params], create_graph=True)
        (mixed,) = gradients(list(inner.values()), [meta], list(direction.values()))
    return mixed


def mixed_by_differences(
    problem: Problem, params: Tree, meta: Tree, batch: Batch, direction: Tree, width: float
) -> Tree:
    """Return (d2f/dl dw) v by central differences: |v| / (2 width) [df/dl(w + width v/|v|) - df/dl(w - width v/|v|)].

    Two first-order gradients. The points are `width` away from w for any length of v; the error is O(width^2). Zero for v = 0.
    """
    length = tree.norm(direction)
    if not float(length):
        return tree.zeros_like(meta)
    unit = tree.scale(1 / length, direction)
    ahead = inner_meta_gradient(problem, tree.add_scaled(params, width, unit), meta, batch)
    behind = inner_meta_gradient(problem, tree.add_scaled(params, -width, unit), meta, batch)
    return tree.scale(length / (2 * width), tree.subtract(ahead, behind))


def hessian_operator(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> Callable[[Tree], Tree]:
    """Return v -> (d2f/dw2) v. The gradient's graph is recorded once for all products."""
    params = tree.leaves_for_grad(params)
    with torch.enable_grad():
        (inner,) = gradients(problem.inner_loss(params, tree.detach(meta), batch), [params], create_graph=True)

    def product(direction: Tree) -> Tree:
        (hessian,) = gradients(list(inner.values()), [params], list(direction.values()), retain_graph=True)
        return hessian

    return product
