"""Implicit differentiation with the empirical Fisher matrix of the run's own gradients in place of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.gradients import inner_gradient, outer_gradient
from metabench.autodiff.inner import begun, updated
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.products import mixed_product
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option, tree
from metabench.core.lazy import torch
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone


@dataclass(frozen=True)
class Options:
    """Options of `ift_fisher`."""

    damping: float = option(0.1, above=0, help="added to the diagonal: of rank K at most, the matrix itself has no inverse")


@method(
    title="implicit differentiation with the empirical Fisher matrix",
    order=145,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 1", hvps="1 mixed product", memory="O(K |w| + |activations|)", affine_from=2),
    citation="kong2026natural",
    options=Options,
)
def ift_fisher(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) (G G' / K + rho I)^-1 dF/dw at w_K, G the K gradients of the window's run. Kong et al. 2026.

    rho is the damping plus the inner optimiser's coupled weight decay, which has no part in G. The inverse is applied by Woodbury's
    identity, in a system of K unknowns: no Hessian product is taken. Near a minimum, where f is the negative log-likelihood of a
    model that fits, on single examples, the matrix tends to the Hessian as K grows; gradients of whole batches, or far from a minimum,
    have another scale, and nothing bounds the error.

    `rank` is that of G, as torch tells it.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, outer losses are due before the window's end, or
            the inner optimiser minimises no loss (AdamW with decay).
    """
    del generator
    refuse_update_and_start_alone(problem, "a minimum of the inner loss does not depend on them")
    outer = refuse_earlier_outer_losses(window, "the minimum has no steps before it")
    ridge, meta = decay_of(problem.optimiser) + options.damping, tree.detach(meta)
    after, slopes = begun(problem, state, meta), []
    for batch in window.inner:
        slopes.append(inner_gradient(problem, after.params, meta, batch))
        after = updated(problem, slopes[-1], after, meta)
    due = outer_gradient(problem, after.params, meta, outer)
    # In float64: the small system squares the condition of G.
    small = torch.stack([torch.stack([tree.dot(one, other).double() for other in slopes]) for one in slopes])
    right = torch.stack([tree.dot(one, due.params).double() for one in slopes])
    weights = torch.linalg.solve(
        small + ridge * len(slopes) * torch.eye(len(slopes), dtype=small.dtype, device=small.device), right
    )
    solution = due.params
    for weight, slope in zip(weights, slopes, strict=True):
        solution = tree.add_scaled(solution, -weight.to(next(iter(slope.values())).dtype), slope)
    solution = tree.scale(1 / ridge, solution)
    mixed = mixed_product(problem, after.params, meta, window.inner[-1], solution)
    found = tree.subtract(due.meta, mixed)
    return Hypergradient(found, after, due.loss, {"rank": float(torch.linalg.matrix_rank(small, hermitian=True))})
