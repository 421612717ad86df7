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
