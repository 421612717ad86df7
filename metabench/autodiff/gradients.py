"""First-order gradients of the two losses, as trees. They leave no graph behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Batch, Tree


def gradients(
    output: torch.Tensor | Sequence[torch.Tensor],
    variables: Sequence[Tree],
    weights: Sequence[torch.Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Tree]:
    """Return the gradient of `output` (weighted by `weights` where it is not a scalar) with respect to each tree of `variables`.

    A leaf that the output does not depend on gets zeros: a loss need not use all parameters.
    """
    found = reached(output, variables, weights, create_graph=create_graph, retain_graph=retain_graph)
    return [filled(gradient, variable) for gradient, variable in zip(found, variables, strict=True)]


def filled(found: Tree, like: Tree) -> Tree:
    """Return the tree in the order of `like`, with zeros for the leaves that it lacks."""
    return {name: found[name] if name in found else torch.zeros_like(leaf) for name, leaf in like.items()}


def reached(
    output: torch.Tensor | Sequence[torch.Tensor],
    variables: Sequence[Tree],
    weights: Sequence[torch.Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> list[Tree]:
    """Return the same as `gradients` without the leaves that the output does not depend on."""
    leaves = [leaf for variable in variables for leaf in variable.values()]
    outputs = [output] if isinstance(output, torch.Tensor) else list(output)
    kept = [i for i, out in enumerate(outputs) if out.requires_grad]
    if kept:
        found = torch.autograd.grad(
            [outputs[i] for i in kept],
            leaves,
            None if weights is None else [weights[i] for i in kept],
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=True,
        )
    else:
        found = (None,) * len(leaves)
    given = iter(found)
    return [{name: g for name in variable if (g := next(given)) is not None} for variable in variables]


def inner_gradient(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> Tree:
    """Return df/dw at (params, meta) on `batch`."""
    params = tree.leaves_for_grad(params)
    with torch.enable_grad():
        loss = problem.inner_loss(params, tree.detach(meta), batch)
        (gradient,) = gradients(loss, [params])
    return gradient


def inner_meta_gradient(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> Tree:
    """Return df/dl at (params, meta) on `batch`: the backward pass goes only to l, not to the parameters."""
    meta = tree.leaves_for_grad(meta)
    with torch.enable_grad():
        (gradient,) = gradients(problem.inner_loss(tree.detach(params), meta, batch), [meta])
    return gradient


class OuterGradient(NamedTuple):
    """The outer loss, a float, and its two first-order gradients."""

    loss: float
    params: Tree
    meta: Tree


def outer_gradient(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> OuterGradient:
    """Return F, dF/dw and the direct dF/dl at (params, meta) on `batch`."""
    params, meta = tree.leaves_for_grad(params), tree.leaves_for_grad(meta)
    with torch.enable_grad():
        loss = problem.outer_loss(params, meta, batch)
        d_params, d_meta = gradients(loss, [params, meta])
    return OuterGradient(float(loss.detach()), d_params, d_meta)


def outer_value(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> float:
    """Return F at (params, meta) on `batch`."""
    with torch.no_grad():
        return float(problem.outer_loss(params, meta, batch))
