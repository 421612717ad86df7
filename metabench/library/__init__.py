"""Hypergradients in your own training loop: `metabench.hypergradient`, on plain losses, dicts of tensors and modules."""

from metabench.autodiff.optimisers import SGD, Adam, Momentum, PerParameter, RMSprop
from metabench.core.errors import MetabenchError
from metabench.library.call import Result, hypergradient
from metabench.library.compare import compare

__all__ = ["SGD", "Adam", "MetabenchError", "Momentum", "PerParameter", "RMSprop", "Result", "compare", "hypergradient"]
