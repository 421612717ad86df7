"""Reverse mode through the recorded run of all inner steps."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method
from metabench.core.lazy import torch


@method(
    title="unrolled reverse mode",
    order=20,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(gradients="K", hvps="K", memory="O(K |activations|)", affine_from=2),
    citation="maclaurin2015gradient franceschi2017forward",
)
def unrolled(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl by one backward pass through the graph of all K steps. Franceschi et al. 2017, section 3.1."""
    del options, generator
    return through_graph(problem, state, meta, window)
