"""Linear algebra on trees: dicts of tensors with the same names and shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from metabench.core.lazy import torch
from metabench.core.types import Tree


def tree_map(function: Callable[..., torch.Tensor], *trees: Tree) -> Tree:
    """Apply `function` leaf by leaf. All trees have the names of the first."""
    first, *rest = trees
    return {name: function(leaf, *(tree[name] for tree in rest)) for name, leaf in first.items()}


def zeros_like(tree: Tree) -> Tree:
    """Return zeros of the same names, shapes and dtypes."""
    return tree_map(lambda leaf: torch.zeros_like(leaf), tree)


def add(left: Tree, right: Tree) -> Tree:
    """Return left + right."""
    return tree_map(lambda a, b: a + b, left, right)


def add_scaled(left: Tree, scale: float | torch.Tensor, right: Tree) -> Tree:
    """Return left + scale * right, in the dtypes of `left`."""
    return tree_map(lambda a, b: (a + scale * b).to(a.dtype), left, right)


def subtract(left: Tree, right: Tree) -> Tree:
    """Return left - right."""
    return tree_map(lambda a, b: a - b, left, right)


def scale(factor: float | torch.Tensor, tree: Tree) -> Tree:
    """Return factor * tree, in the dtypes of `tree`: a factor without dimensions would widen leaves without dimensions."""
    return tree_map(lambda leaf: (factor * leaf).to(leaf.dtype), tree)


def dot(left: Tree, right: Tree) -> torch.Tensor:
    """Return the inner product over all leaves, a scalar."""
    return torch.stack([(leaf * right[name]).sum() for name, leaf in left.items()]).sum()


def norm(tree: Tree) -> torch.Tensor:
    """Return the Euclidean norm over all leaves, a scalar."""
    return dot(tree, tree).sqrt()


def detach(tree: Tree) -> Tree:
    """Return the same values, without a graph."""
    return tree_map(lambda leaf: leaf.detach(), tree)


def leaves_for_grad(tree: Tree) -> Tree:
    """Return detached leaves that record operations: the variables of a derivative."""
    return tree_map(lambda leaf: leaf.detach().requires_grad_(), tree)


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Return floating-point leaves in `dtype`; integer leaves stay as they are."""
    return tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def flatten(tree: Tree) -> torch.Tensor:
    """Return all leaves as one vector, in the order of the names."""
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def unflatten(vector: torch.Tensor, like: Tree) -> Tree:
    """Return `vector` cut into the shapes and dtypes of `like`; the inverse of `flatten`."""
    pieces = vector.split([leaf.numel() for leaf in like.values()])
    return {
        name: piece.view(leaf.shape).to(leaf.dtype) for (name, leaf), piece in zip(like.items(), pieces, strict=True)
    }


def mean(trees: Iterable[Tree]) -> Tree:
    """Return the mean of one or more trees, leaf by leaf."""
    gathered = list(trees)
    total = gathered[0]
    for tree in gathered[1:]:
        total = add(total, tree)
    return total if len(gathered) == 1 else scale(1.0 / len(gathered), total)


def count(tree: Tree) -> int:
    """Return the number of scalars."""
    return sum(leaf.numel() for leaf in tree.values())


def all_finite(tree: Tree) -> bool:
    """Return whether no leaf holds NaN or an infinity."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in tree.values())


def digest(tree: Tree) -> str:
    """Return sixteen hexadecimal digits over names, shapes, dtypes and the bits of all values; -0.0 counts as 0.0."""
    found = hashlib.sha256()
    for name, leaf in tree.items():
        values = (leaf.detach() + 0).cpu().reshape(-1)
        found.update(f"{name} {tuple(leaf.shape)} {leaf.dtype}\n".encode())
        found.update(values.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
