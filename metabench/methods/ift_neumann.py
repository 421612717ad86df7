"""Implicit differentiation, the inverse Hessian applied by a truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.implicit import implicit_hypergradient
from metabench.autodiff.linear_solvers import neumann_series
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option
from metabench.core.lazy import torch

CITATION = """
    @inproceedings{lorraine2020optimizing,
      title = {Optimizing Millions of Hyperparameters by Implicit Differentiation},
      author = {Lorraine, Jonathan and Vicol, Paul and Duvenaud, David},
      booktitle = {International Conference on Artificial Intelligence and Statistics},
      year = {2020}
    }
"""


@dataclass(frozen=True)
class Options:
    """Options of `ift_neumann`."""

    steps: int = option(10, minimum=0, help="terms of the series after the first")
    scale: float = option(
        0.1, above=0, help="alpha: the series converges where the Hessian's eigenvalues lie in (0, 2/alpha)"
    )


@method(
    title="implicit differentiation with a Neumann series",
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2", hvps="steps + 1 mixed product", memory="O(|w| + |activations|)"),
    citation=CITATION,
    options=Options,
)
def ift_neumann(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) alpha sum_{j<=steps} (I - alpha d2f/dw2)^j dF/dw at w_K. Lorraine et al. 2020, algorithm 3."""
    del generator
    return implicit_hypergradient(
        problem,
        state,
        meta,
        window,
        lambda product, target: neumann_series(product, target, options.steps, options.scale),
    )
