"""Dual numbers on trees: values that carry a tangent through torch's operations, inside a `dual_level`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.types import Tree

T = TypeVar("T")


def stopping(function: Callable[..., T]) -> Callable[..., T]:
    """Return `function` with `torch.no_grad()` and `.data` stopping tangents in it, too.

    In reverse mode, whatever is computed under `torch.no_grad()` is a constant, as after `detach()`; torch's forward mode ignores that. A
    loss must have the same derivative in both modes: the function raises Unsupported for operations known only to a backward pass.
    """

    def stopped(*arguments: Any) -> T:
        with _stop()():
            return function(*arguments)

    return stopped


@functools.cache
def _stop() -> type[Any]:
    """Return the mode in which switching recording on or off switches tangents with it."""
    from torch.overrides import TorchFunctionMode

    switch, of_data = torch._C._set_grad_enabled, torch.Tensor.data.__get__
    # Hooks change a backward pass, and forward mode knows nothing of it; in place, torch.func looks through a stop.
    untold = (torch.Tensor.register_hook, torch.Tensor.detach_)

    class Stop(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is switch:
                torch._C._set_fwd_grad_enabled(*args)
            elif func == of_data:
                return args[0].detach()
            elif func in untold:
                raise Unsupported(f"forward mode cannot follow Tensor.{func.__name__} inside a loss: write it out, or detach()")
            return func(*args, **(kwargs or {}))

    return Stop


def dual(primal: Tree, tangents: Tree) -> Tree:
    """Return the values of `primal` with their tangents, leaf by leaf.

    Pass zeros explicitly: torch's symbolic ones run through Python, op by op, and took 1.4 times the time of a whole second-order
    product on small models.
    """
    return tree.tree_map(torch.autograd.forward_ad.make_dual, primal, tangents)


def tangent(leaf: torch.Tensor) -> torch.Tensor:
    """Return the tangent of a value, without a graph; zero if the value depends on no dual number."""
    found = torch.autograd.forward_ad.unpack_dual(leaf).tangent
    return torch.zeros_like(leaf) if found is None else found.detach()
