"""Floating-point operations of a call, as torch's FLOP counter counts them: matrix products and convolutions, from their shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from metabench.core.lazy import torch


@functools.cache
def flop_formula(operation: Any) -> Callable[..., int] | None:
    """Return the formula of an operation (an overload packet), from its arguments and `out_val`, its result; None if it counts nothing.

    Products that add in place count as those that do not: torch's own table leaves them out.
    """
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    in_place = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
    formula: Callable[..., int] | None = flop_registry.get(in_place.get(operation, operation))
    return formula


def flop_counter() -> Any:
    """Return torch's counter as a context manager, for which `get_total_flops()` is the count, by the formulas of `flop_formula`."""
    from torch.utils.flop_counter import FlopCounterMode

    def raw(operation: Any) -> Callable[..., int]:
        def count(*arguments: Any, out_val: Any = None, **named: Any) -> int:
            formula = flop_formula(operation)
            assert formula is not None
            return int(formula(*arguments, out_val=out_val, **named))

        # The counter would hand shapes in place of tensors to a function without this mark.
        count._get_raw = True  # type: ignore[attr-defined]
        return count

    in_place = (torch.ops.aten.addmm_, torch.ops.aten.baddbmm_)
    return FlopCounterMode(display=False, custom_mapping={operation: raw(operation) for operation in in_place})
