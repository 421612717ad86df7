"""No hypergradient: the inner run alone."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.gradients import outer_value
from metabench.autodiff.inner import begin, detached, step
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, tree
from metabench.core.lazy import torch


@method(
    title="no meta-learning: the meta-parameters keep their initial values",
    target=Target.NONE,
    exact=True,
    cost=Cost(gradients="K", memory="O(|w| + |activations|)", affine_from=2),
    citation="",
)
def none(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return zeros after the window's inner steps: the baseline row of every table."""
    del options, generator
    state = detached(begin(problem, state, meta))
    objective = 0.0
    for inner, outer in zip(window.inner, window.outer, strict=True):
        state = step(problem, state, meta, inner)
        if outer is not None:
            objective += outer_value(problem, state.params, meta, outer)
    return Hypergradient(tree.zeros_like(meta), state, objective)
