"""The contract: what a problem is, what a method is, and what passes between them. Imports nothing else from the package."""

from metabench.core.errors import Absent, Diverged, MetabenchError, OutOfMemory, TimeLimit, Unsupported
from metabench.core.method import (
    Cost,
    Curvature,
    Hypergradient,
    Keeps,
    Limit,
    Mean,
    Method,
    Peer,
    Target,
    method,
)
from metabench.core.options import option
from metabench.core.problem import MetaRole, Metric, Problem, ProblemCard
from metabench.core.types import Batch, InnerState, OptimiserState, Tree, Window, once

__all__ = [
    "Absent",
    "Batch",
    "Cost",
    "Curvature",
    "Diverged",
    "Hypergradient",
    "InnerState",
    "Keeps",
    "Limit",
    "Mean",
    "MetaRole",
    "MetabenchError",
    "Method",
    "Metric",
    "OptimiserState",
    "OutOfMemory",
    "Peer",
    "Problem",
    "ProblemCard",
    "Target",
    "TimeLimit",
    "Tree",
    "Unsupported",
    "Window",
    "method",
    "once",
    "option",
]
