"""All coordinates of a tree's tensors as the columns of one matrix, so that an optimiser's network is applied once to all of them.

Numbers of a coordinate are in its column: what a network computes with one of them for all coordinates is then contiguous in memory, which
makes an update a third faster than with rows.
"""

from __future__ import annotations

import math

from metabench.core.lazy import torch
from metabench.core.types import Tree


def joined(leaves: Tree) -> torch.Tensor:
    """Return the elements of the leaves behind each other, shape [1, n]."""
    return _beside([leaf.reshape(1, -1) for leaf in leaves.values()])


def joined_wide(leaves: Tree) -> torch.Tensor:
    """Return leaves of shape [..., wide], `wide` numbers of every coordinate, as the columns of a matrix [wide, n]."""
    return _beside(
        [leaf.movedim(-1, 0).reshape(leaf.shape[-1], math.prod(leaf.shape[:-1])) for leaf in leaves.values()]
    )


def _beside(pieces: list[torch.Tensor]) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def parted(row: torch.Tensor, like: Tree) -> Tree:
    """Return n numbers as leaves of the shapes of `like`: the inverse of `joined`."""
    if len(like) == 1:
        ((name, leaf),) = like.items()
        return {name: row.reshape(leaf.shape)}
    pieces = row.reshape(-1).split(counts(like))
    return {name: piece.reshape(leaf.shape) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}


def parted_wide(columns: torch.Tensor, like: Tree) -> Tree:
    """Return the columns of a matrix [wide, n] as leaves of the shapes of `like` followed by `wide`: the inverse of `joined_wide`.

    They are views: in memory the last dimension is the first.
    """
    pieces = columns.split(counts(like), dim=1) if len(like) > 1 else (columns,)
    return {
        name: piece.reshape(len(columns), *leaf.shape).movedim(0, -1)
        for (name, leaf), piece in zip(like.items(), pieces, strict=True)
    }


def zeros_wide(params: Tree, wide: int) -> Tree:
    """Return zeros in the form of `parted_wide`."""
    return {name: leaf.new_zeros((wide, *leaf.shape)).movedim(0, -1) for name, leaf in params.items()}


def counts(params: Tree) -> list[int]:
    """Return the number of elements of every leaf."""
    return [math.prod(leaf.shape) for leaf in params.values()]
