"""What a user hands over and gets back, a tensor, a dict, a tuple or a module, and the trees that methods see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Batch, Tree

ALONE = "tensor"
"""The name of a tensor that is not part of anything."""

Signature: TypeAlias = "tuple[tuple[str, torch.Size, torch.dtype, torch.device], ...]"


def kind_of(value: Any) -> type:
    """Return how a value is packed: `torch.Tensor`, `dict`, `torch.nn.Module`, or its own type if it is a tuple or a list."""
    if type(value) is dict:  # before the slow check for any mapping
        return dict
    for kind, known in ((torch.Tensor, torch.Tensor), (torch.nn.Module, torch.nn.Module), (dict, Mapping)):
        if isinstance(value, known):
            return kind
    return type(value)


def variables(value: Any, what: str) -> Tree:
    """Return the tensors of parameters or meta-parameters by name, detached; of a module, those that require gradients.

    Raises:
        MetabenchError: it is neither a tensor, nor a dict of tensors with one or more, nor a module with a trainable parameter.
    """
    if isinstance(value, torch.nn.Module):
        found: Tree = {name: leaf for name, leaf in value.named_parameters() if leaf.requires_grad}
        if not found:
            raise MetabenchError(f"{what}, a {type(value).__name__}, has no parameter that requires a gradient")
    elif isinstance(value, torch.Tensor | Mapping):
        found = leaves(value, what)
        if not found:
            raise MetabenchError(f"{what} is an empty dict, expected one or more tensors by name")
    else:
        raise MetabenchError(
            f"{what} is a {type(value).__name__}, expected a tensor, a dict of tensors by name, or a torch.nn.Module"
        )
    return {name: leaf.detach() for name, leaf in found.items()}


def leaves(value: Any, what: str) -> Tree:
    """Return the tensors of a tensor, dict, tuple or list by name; raise MetabenchError, naming `what`, if it is anything else."""
    if isinstance(value, torch.Tensor):
        return {ALONE: value}
    if isinstance(value, dict | Mapping):
        found = dict(value)
    elif isinstance(value, tuple | list):
        found = {str(place): leaf for place, leaf in enumerate(value)}
    else:
        raise MetabenchError(
            f"{what} is a {type(value).__name__}, expected a tensor, or a dict, tuple or list of tensors"
        )
    for name, leaf in found.items():
        if not isinstance(leaf, torch.Tensor):
            raise MetabenchError(f"{what}[{name!r}] is a {type(leaf).__name__}, expected a tensor")
        if not isinstance(name, str):
            raise MetabenchError(f"{what}: the name {name!r} is a {type(name).__name__}, expected a string")
    return found


def packed(kind: type, tree: Batch) -> Any:
    """Return the tree as `kind_of` says; the tensors of a module come as a dict."""
    if kind is dict:
        return tree
    if kind is torch.Tensor:
        return tree[ALONE]
    if issubclass(kind, tuple | list):
        # A named tuple takes its fields one by one.
        return kind(*tree.values()) if hasattr(kind, "_fields") else kind(tree.values())
    return tree


def signature(tree: Tree) -> Signature:
    """Return names, shapes, dtypes and devices."""
    return tuple((name, leaf.shape, leaf.dtype, leaf.device) for name, leaf in tree.items())
