"""Hypergradients in your own training loop: `metabench.hypergradient`, on plain losses, dicts of tensors and modules."""

from metabench.autodiff.optimisers import SGD, Adam, Momentum, PerParameter, RMSprop, scheduled
from metabench.core.errors import MetabenchError
from metabench.core.schedules import Cosine, Piecewise, WarmUp
from metabench.library.call import Result, hypergradient
from metabench.library.comparison import compare

__all__ = [
    "SGD",
    "Adam",
    "Cosine",
    "MetabenchError",
    "Momentum",
    "PerParameter",
    "Piecewise",
    "RMSprop",
    "Result",
    "WarmUp",
    "compare",
    "hypergradient",
    "scheduled",
]
