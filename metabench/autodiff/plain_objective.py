"""The window's outer objective by plain inner training: it uses no derivative except the inner gradient."""

from __future__ import annotations

from metabench.autodiff.gradients import outer_value
from metabench.autodiff.inner import begin, detached, step
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window


def trained(problem: Problem, state: InnerState, meta: Tree, window: Window) -> tuple[InnerState, float]:
    """Return the inner state after the window's K steps, and the sum of the outer losses due. First order."""
    with torch.no_grad():
        state = detached(begin(problem, state, meta))
    objective = 0.0
    for inner, outer in zip(window.inner, window.outer, strict=True):
        state = step(problem, state, meta, inner)
        if outer is not None:
            objective += outer_value(problem, state.params, meta, outer)
    return state, objective
