"""All coordinates of a tree's tensors as the rows of one, so that an optimiser's network is applied once to all of them."""

from __future__ import annotations

import math

from metabench.core.lazy import torch
from metabench.core.types import Tree


def joined(leaves: Tree, wide: int = 0) -> torch.Tensor:
    """Return the leaves behind each other, shape [n], or [n, wide] where their last dimension has `wide` numbers of each coordinate."""
    rows = (-1, wide) if wide else (-1,)
    flat = [leaf.reshape(rows) for leaf in leaves.values() if leaf.numel()]
    if not flat:
        return next(iter(leaves.values())).reshape(rows if not wide else (0, wide))
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def parted(rows: torch.Tensor, like: Tree) -> Tree:
    """Return rows of shape [n, ...] as leaves of the shapes of `like`, followed by `...`: the inverse of `joined`."""
    wide = rows.shape[1:]
    if len(like) == 1:
        ((name, leaf),) = like.items()
        return {name: rows.reshape(leaf.shape + wide)}
    pieces = rows.split([math.prod(leaf.shape) for leaf in like.values()])
    return {name: piece.reshape(leaf.shape + wide) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}
