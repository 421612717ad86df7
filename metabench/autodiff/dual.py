"""Dual numbers on trees: values that carry a tangent through torch's operations, inside a `dual_level`."""

from __future__ import annotations

from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.types import Tree


def dual(primal: Tree, tangents: Tree) -> Tree:
    """Return the values of `primal` with their tangents, leaf by leaf.

    Zeros are to be given as zeros: torch's symbolic ones run through Python, op by op, and took 1.4 times the time of a whole second-order
    product on small models.
    """
    return tree.tree_map(torch.autograd.forward_ad.make_dual, primal, tangents)


def tangent(leaf: torch.Tensor) -> torch.Tensor:
    """Return the tangent that a value carries, without a graph. One that depends on no dual number carries none: it is zero."""
    found = torch.autograd.forward_ad.unpack_dual(leaf).tangent
    return torch.zeros_like(leaf) if found is None else found.detach()
