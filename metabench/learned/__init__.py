"""Learned optimisers: what declares one, how it is trained and judged, and how a trained one is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from metabench.learned.torch_optimiser import Factory


def load(source: str | Path, dtype: torch.dtype | None = None) -> Factory:
    """Return what makes a `torch.optim.Optimizer` of a trained optimiser: `load("lstm.pt")(model.parameters())`.

    Args:
        source: a file that `metabench export` wrote, or the name of an optimiser that comes with metabench.
        dtype: convert the trained weights to it; by default they stay as they were exported, and parameters of another dtype are refused.

    Raises:
        MetabenchError: there is no such file or optimiser, or it cannot be read.
    """
    # Here: what declares an optimiser needs none of it.
    from metabench.learned.torch_optimiser import Factory

    return Factory.of(source, dtype)
