"""Mixed mode: the sweep back over the steps is reverse, the second-order products within a step are forward over reverse."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.sweep import mixed_mode_step, sweep_back
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method
from metabench.core.lazy import torch

CITATION = """
    @inproceedings{kemaev2025scalable,
      title = {Scalable Meta-Learning via Mixed-Mode Differentiation},
      author = {Kemaev, Iurii and Calian, Dan A. and Zintgraf, Luisa M. and Farquhar, Gregory and van Hasselt, Hado},
      booktitle = {International Conference on Machine Learning},
      year = {2025}
    }
"""


@method(
    title="MixFlow-MG: mixed-mode differentiation of the unrolled run",
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(gradients="2 K", jvps="K (of the gradient)", memory="O(K |w| + |activations|)"),
    citation=CITATION,
)
def mixflow(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl; no backward pass of an inner step is ever recorded. Kemaev et al. 2025, algorithm 2."""
    del options, generator
    return sweep_back(problem, state, meta, window, mixed_mode_step)
