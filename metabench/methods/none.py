"""No hypergradient: the inner run alone."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.inner import trained
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, tree
from metabench.core.lazy import torch


@method(
    title="no meta-learning: the meta-parameters keep their initial values",
    order=10,
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
    state, objective = trained(problem, state, meta, window)
    return Hypergradient(tree.zeros_like(meta), state, objective)
