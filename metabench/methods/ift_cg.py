"""Implicit differentiation, the inverse Hessian applied by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.implicit.hypergradient import implicit_hypergradient
from metabench.autodiff.implicit.linear_solvers import conjugate_gradients
from metabench.core import Cost, Hypergradient, InnerState, Limit, Problem, Target, Tree, Window, method, option
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `ift_cg`."""

    steps: int = option(10, minimum=1, help="most conjugate gradient steps")
    tolerance: float = option(1e-10, minimum=0, help="relative residual at which the solver stops")
    damping: float = option(0.0, minimum=0, help="added to the Hessian's diagonal")
    warm_start: bool = option(False, help="start from the previous window's solution, for one more product")


@method(
    title="implicit differentiation with conjugate gradients",
    order=120,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2", hvps="steps + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="pedregosa2016hyperparameter rajeswaran2019meta",
    options=Options,
    limit=Limit(lambda at: {"steps": at.dimension, "tolerance": 0.0}, 1e-8, budget="steps", values=(1, 2, 3, 4, 6, 8)),
)
def ift_cg(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) (H + damping I)^-1 dF/dw at w_K. Pedregosa 2016, algorithm 1; iMAML's solver and damping.

    H is d2f/dw2 on the window's last inner batch, plus the inner optimiser's coupled weight decay. If it is indefinite, conjugate
    gradients stop early, and the diagnostic `indefinite` is 1.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, or does not exist (see `implicit_hypergradient`).
        Diverged: a Hessian product is not finite.
    """
    del generator
    return implicit_hypergradient(
        problem,
        state,
        meta,
        window,
        lambda hessian, target, start: conjugate_gradients(hessian, target, options.steps, options.tolerance, start),
        options.damping,
        options.warm_start,
    )
