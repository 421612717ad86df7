"""Reverse mode over one step at a time, each recorded again on the way back."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.sweep import recomputed_step, square_root_spacing, sweep_back
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option
from metabench.core.lazy import torch

CITATION = """
    @article{chen2016training,
      title = {Training Deep Nets with Sublinear Memory Cost},
      author = {Chen, Tianqi and Xu, Bing and Zhang, Chiyuan and Guestrin, Carlos},
      journal = {arXiv preprint arXiv:1604.06174},
      year = {2016}
    }
    @article{griewank2000revolve,
      title = {Algorithm 799: Revolve: An Implementation of Checkpointing for the Reverse or Adjoint Mode of Computational Differentiation},
      author = {Griewank, Andreas and Walther, Andrea},
      journal = {ACM Transactions on Mathematical Software},
      volume = {26},
      number = {1},
      year = {2000}
    }
"""


@dataclass(frozen=True)
class Options:
    """Options of `unrolled_remat`."""

    schedule: str = option(
        "every", choices=("every", "sqrt"), help="states kept: of every step, or of every sqrt(K)-th step"
    )


@method(
    title="unrolled reverse mode with rematerialised steps",
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(
        gradients="2 K, or 3 K with sqrt",
        hvps="K",
        memory="O(K |w| + |activations|), or O(sqrt(K) |w| + |activations|)",
    ),
    citation=CITATION,
    options=Options,
)
def unrolled_remat(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl, with the graph of one step alive at a time. Chen et al. 2016, section 4, with steps for layers."""
    del generator
    spacing = 1 if options.schedule == "every" else square_root_spacing(len(window.inner))
    return sweep_back(problem, state, meta, window, recomputed_step, spacing)
