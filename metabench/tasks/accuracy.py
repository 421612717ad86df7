"""The accuracy over tasks, and how sure it is."""

from __future__ import annotations

import math

from metabench.core.lazy import torch


def interval(accuracies: torch.Tensor) -> float:
    """Return half the 95 % interval of the mean over tasks, shape [tasks], in the unit of the accuracies."""
    return float(1.96 * accuracies.std() / math.sqrt(len(accuracies)))
