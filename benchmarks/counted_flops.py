"""torch's counter of floating-point operations, with the formulas of predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from metabench.measure.predicted.flops import flop_formula


def flop_counter() -> FlopCounterMode:
    """Return the counter, a context manager for which `get_total_flops()` is the count."""

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
