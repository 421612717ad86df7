"""SAMA: implicit differentiation with the identity for the inverse Hessian, the optimiser's adaptation, and no second-order product."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.products import mixed_by_differences
from metabench.autodiff.unrolled.last_step import last_step
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
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
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone


@dataclass(frozen=True)
class Options:
    """Options of `sama`."""

    epsilon: float = option(0.01, above=0, help="distance in the parameters from w_K to each end of the difference")


@method(
    title="SAMA: identity for the inverse Hessian, with the optimiser's adaptation",
    order=90,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2", memory="O(|w| + |activations|)", affine_from=2),
    citation="choe2023making",
    options=Options,
)
def sama(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) v with v = (du/dg)^T dF/dw, the product by central differences. Choe et al. 2023, equations 4 and 5.

    Where each term is taken:
        u, the update of the last inner step, w_K = w_{K-1} - u(g): its derivative at the gradient g and the optimiser's state before
            that step, g = df/dw at w_{K-1} on the last inner batch. For SGD du/dg = lr.
        dF/dw and dF/dl: at w_K.
        d2f/dl dw: at w_K on the last inner batch, as [df/dl(w_K + e v/|v|) - df/dl(w_K - e v/|v|)] |v| / (2 e), with e = `epsilon`.
    The inverse Hessian is replaced by du/dg, so the length is that of one step, not of the implicit hypergradient; no budget makes
    the two agree. The paper's code leaves the parameters at the far end of the difference; here the inner run continues
    from w_K.

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start alone, or outer losses are due before the window's end.
    """
    del generator
    refuse_update_and_start_alone(problem, "SAMA sees the inner loss alone")
    outer = refuse_earlier_outer_losses(window, "SAMA reaches the last alone")
    meta = tree.detach(meta)
    last = last_step(problem, state, meta, window, outer)
    if MetaRole.INNER_LOSS not in problem.roles:
        return Hypergradient(last.due.meta, last.after, last.due.loss)
    # dw_K/dg = -du/dg: the cotangent of g is -v.
    _, minus_v = last.pull_update(problem, meta)
    mixed = mixed_by_differences(problem, last.after.params, meta, window.inner[-1], minus_v, options.epsilon)
    return Hypergradient(tree.add(last.due.meta, mixed), last.after, last.due.loss)
