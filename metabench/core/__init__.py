"""The contract: what a problem is, what a method is, and what passes between them. Imports nothing else from the package."""

from metabench.core.errors import Diverged, MetabenchError, OutOfMemory, TimeLimit, Unsupported
from metabench.core.method import Cost, Curvature, Hypergradient, Limit, Mean, Method, Target, method
from metabench.core.options import option
from metabench.core.problem import MetaRole, Metric, Problem, ProblemCard
from metabench.core.types import Batch, InnerState, OptimiserState, Tree, Window, once

__all__ = [
    "Batch",
    "Cost",
    "Curvature",
    "Diverged",
    "Hypergradient",
    "InnerState",
    "Limit",
    "Mean",
    "MetaRole",
    "MetabenchError",
    "Method",
    "Metric",
    "OptimiserState",
    "OutOfMemory",
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
