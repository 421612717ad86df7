"""Which sums of the autograd engine are made in place.

Where a tensor is used twice, the engine adds the second gradient to the first. It does so in place where the first is its own: no graph is
recorded, nothing else holds the tensor or its memory, and that is dense without overlap (`accumulate` in torch's input_buffer.cpp). Under a
dispatch mode it always adds out of place; a ledger that is to say what happens without one has to know the difference.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.autograd.graph import _engine_run_backward
from torch.utils._python_dispatch import TorchDispatchMode

_SUM = torch.ops.aten.add.Tensor

_ENGINE = _engine_run_backward.__code__


def accumulates_in_place(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Return whether the engine would write the sum into its first argument. To be called from `__torch_dispatch__` itself."""
    if not _is_of_the_engine(function, keywords, sys._getframe(2)):
        return False
    gradient = arguments[0]
    return _holders(gradient) <= _holders_of_its_own() and is_non_overlapping_and_dense_or_false(gradient)


def _is_of_the_engine(function: Any, keywords: dict[str, Any], caller: Any) -> bool:
    """Return whether an operation is a sum that the engine makes between two nodes of the graph, and records none itself."""
    return (
        function is _SUM
        and not keywords
        and not torch.is_grad_enabled()
        and torch._C._current_autograd_node() is None
        and caller is not None
        and caller.f_code is _ENGINE
    )


def _holders(tensor: torch.Tensor) -> tuple[int, int]:
    """Return how many references there are to a tensor and to its storage, those of looking at them included."""
    storage = tensor.untyped_storage()
    return tensor._use_count(), torch._C._storage_Use_Count(storage._cdata)


@functools.cache
def _holders_of_its_own() -> tuple[int, int]:
    """Return what `_holders` says of a gradient that the engine alone holds: how a mode is called takes references of its own."""
    seen: list[tuple[int, int]] = []

    class Watch(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if _is_of_the_engine(func, kwargs or {}, sys._getframe(1)):
                seen.append(_holders(args[0]))
            return func(*args, **(kwargs or {}))

    with torch._subclasses.FakeTensorMode(), torch.enable_grad():
        used_twice = torch.ones(2).requires_grad_()
        with Watch():
            torch.autograd.grad(used_twice.sin().sum() + used_twice.cos().sum(), used_twice)
    return seen[0]
