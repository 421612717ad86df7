"""One-step hypergradient with its mixed second-order product by central finite differences."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.products import mixed_by_differences
from metabench.autodiff.unrolled.last_step import last_step
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    Limit,
    MetaRole,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.support import refuse_earlier_outer_losses, refuse_start


@dataclass(frozen=True)
class Options:
    """Options of `darts`."""

    epsilon: float = option(0.01, above=0, help="distance in the parameters from w to each end of the difference")


@method(
    title="DARTS: one step, its mixed product by finite differences",
    order=80,
    target=Target.ONE_STEP,
    exact=False,
    cost=Cost(gradients="K + 2", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2019darts",
    options=Options,
    limit=Limit(
        lambda curvature: {"epsilon": 1e-4},
        tolerance=1e-6,
        budget="epsilon",
        values=(1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
    ),
)
def darts(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl + (dU/dl)^T dF/dw + |c|/(2 e) [df/dl(w + e c/|c|) - df/dl(w - e c/|c|)]. Liu et al. 2019, equations 7 and 8.

    w = w_{K-1} are the parameters before the last inner step, w_K = U(df/dw(w, l), w, l) is that step, e is `epsilon`, and
    c = (dU/dg)^T dF/dw is the cotangent of the inner gradient. For SGD c = -lr dF/dw, which is the paper's formula with its
    step 0.01/|dF/dw|; any other optimiser is differentiated through its last update. All losses f are on the last inner batch. The error
    is O(e^2).

    Raises:
        Unsupported: the meta-parameters are the start of the inner run, or outer losses are due before its end.
    """
    del generator
    refuse_start(problem, "one step does not reach them")
    outer = refuse_earlier_outer_losses(window, "one step reaches the last alone")
    meta = tree.detach(meta)
    last = last_step(problem, state, meta, window, outer)
    share, of_gradient = last.pull_update(problem, meta)
    total = tree.add(last.due.meta, share)
    if MetaRole.INNER_LOSS in problem.roles:
        mixed = mixed_by_differences(problem, last.before.params, meta, window.inner[-1], of_gradient, options.epsilon)
        total = tree.add(total, mixed)
    return Hypergradient(total, last.after, last.due.loss)
