"""Checks of what a method returns, by its caller."""

from __future__ import annotations

import math
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.types import InnerState, Tree


def check_hypergradient(found: Any, state: InnerState, meta: Tree) -> None:
    """Raise MetabenchError unless `found` is a hypergradient for `meta` from `state`; the message says what it is instead.

    It is valid if the hypergradient has the names, shapes, dtypes and devices of `meta`, the inner state those of `state`, nothing
    carries a graph, the outer loss is a float and the diagnostics are floats by name. Values are not checked: see `non_finite`.
    """
    if not isinstance(found, Hypergradient):
        hint = ": is a `return` missing?" if found is None else ", expected metabench.core.Hypergradient"
        raise MetabenchError(f"the method returned {_kind(found)}{hint}")
    _check_tree(found.meta, meta, "a hypergradient", "the meta-parameters")
    if not isinstance(found.state, InnerState):
        raise MetabenchError(f"the method returned {_kind(found.state)} as the inner state, expected an InnerState")
    _check_tree(found.state.params, state.params, "parameters", "the inner state")
    if list(found.state.optimiser) != list(state.optimiser):
        slots = f"{list(found.state.optimiser)}, the inner optimiser has {list(state.optimiser)}"
        raise MetabenchError(f"the method returned an optimiser's state of {slots}")
    for slot, leaves in state.optimiser.items():
        _check_tree(found.state.optimiser[slot], leaves, f"an optimiser's state '{slot}'", f"the slot '{slot}'")
    for name, kept in found.state.memory.items():
        _check_leaves(kept, f"the memory '{name}'")
    if found.answer is not None:
        _check_tree(found.answer, state.params, "an answer", "the inner state")
    if not isinstance(found.outer_loss, float):
        raise MetabenchError(f"the method returned {_kind(found.outer_loss)} as the outer loss, expected a float")
    for name, value in found.diagnostics.items():
        if not isinstance(value, float):
            raise MetabenchError(f"the method returned {_kind(value)} as the diagnostic '{name}', expected a float")


def non_finite(found: Hypergradient) -> str:
    """Return which of the hypergradient, the inner state and the outer loss holds NaN or an infinity, in words; empty if none does."""
    slots = [(f"the optimiser's slot '{slot}' returned", leaves) for slot, leaves in found.state.optimiser.items()]
    for what, leaves in (("the hypergradient", found.meta), ("the inner state returned", found.state.params), *slots):
        for name, leaf in leaves.items():
            if not bool(torch.isfinite(leaf).all()):
                return f"{what} is not finite (first in '{name}')"
    return "" if math.isfinite(found.outer_loss) else f"the outer loss returned is {found.outer_loss}"


def _check_tree(found: Any, like: Tree, what: str, of: str) -> None:
    _check_leaves(found, what)
    if list(found) != list(like):
        raise MetabenchError(f"the method returned {what} of {list(found)}, expected the names of {of}, {list(like)}")
    for name, leaf in like.items():
        for aspect, one, other in (
            ("of shape", tuple(found[name].shape), tuple(leaf.shape)),
            ("in", found[name].dtype, leaf.dtype),
            ("on", found[name].device, leaf.device),
        ):
            if one != other:
                raise MetabenchError(f"the method returned {what} for '{name}' {aspect} {one}, expected {other}")


def _check_leaves(found: Any, what: str) -> None:
    if not isinstance(found, dict):
        raise MetabenchError(f"the method returned {_kind(found)} as {what}, expected a dict of tensors by name")
    for name, leaf in found.items():
        if not isinstance(leaf, torch.Tensor):
            raise MetabenchError(f"the method returned {what} whose '{name}' is {_kind(leaf)}, expected a tensor")
        if leaf.requires_grad:
            raise MetabenchError(f"the method returned {what} whose '{name}' carries a graph: detach it")


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a value of type {type(value).__name__}"
