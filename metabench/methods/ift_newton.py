"""Implicit differentiation at a Newton step beyond the inner run: the hypergradient of the minimum, not of where the run ends."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.gradients import inner_gradient, outer_gradient
from metabench.autodiff.implicit.hessian import DampedHessian
from metabench.autodiff.implicit.linear_solvers import conjugate_gradients
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.products import mixed_product
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    Limit,
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
    """Options of `ift_newton`."""

    steps: int = option(10, minimum=1, help="most conjugate gradient steps of each of the two solves")
    tolerance: float = option(1e-10, minimum=0, help="relative residual at which a solver stops")
    damping: float = option(0.0, minimum=0, help="added to the Hessian's diagonal in both")
    shared: bool = option(False, help="take H and dF/dw at w_K in both solves: an error of first order in w_K - w*, and no second Hessian")


@method(
    title="implicit differentiation at a Newton step",
    order=125,
    target=Target.MINIMUM,
    exact=False,
    cost=Cost(gradients="K + 4", hvps="2 steps + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="dong2025efficient",
    options=Options,
    limit=Limit(
        lambda at: [{"steps": at.dimension, "tolerance": 0.0}, {"steps": at.dimension, "tolerance": 0.0, "shared": True}],
        1e-8,
        budget="steps",
        values=(1, 2, 3, 4, 6, 8),
        at_minimum=True,
    ),
)
def ift_newton(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) H^-1 dF/dw at z = w_K - H^-1 df/dw(w_K), a Newton step from the run's end towards the minimum of f.

    Where w_K is off by e, `ift_cg` has an error of order e against the hypergradient of the minimum, and this of order e^2; on a
    quadratic f it is exact from any w_K. f is the inner loss on the window's last batch, with the inner optimiser's coupled weight
    decay. With `shared` both systems have the Hessian and dF/dw of w_K, and dF/dl and d2f/dl dw alone are those of z: Dong et al. 2025,
    whose algorithm solves them together.

    Where the first solve meets a direction of negative curvature a Newton step need not lead downhill: z is then w_K, the diagnostic
    `indefinite` is 1, and this is `ift_cg`. `solver_steps` counts the products of both solves, `newton_step` is |z - w_K| / |w_K|.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, outer losses are due before the window's end, or
            the inner optimiser minimises no loss (AdamW with decay).
        Diverged: a Hessian product is not finite.
    """
    del generator
    refuse_update_and_start_alone(problem, "a minimum of the inner loss does not depend on them")
    outer = refuse_earlier_outer_losses(window, "the minimum has no steps before it")
    decay, batch, meta = decay_of(problem.optimiser), window.inner[-1], tree.detach(meta)
    after = run(problem, begun(problem, state, meta), meta, window.inner)
    params, value = after.params, outer_gradient(problem, after.params, meta, outer)
    hessian = DampedHessian(problem, params, meta, batch, decay + options.damping)
    slope = tree.add_scaled(inner_gradient(problem, params, meta, batch), decay, params)
    newton = conjugate_gradients(hessian, slope, options.steps, options.tolerance)
    at = params if newton.indefinite else tree.subtract(params, newton.value)
    due = value if newton.indefinite else outer_gradient(problem, at, meta, outer)
    if not options.shared:
        del hessian
        hessian = DampedHessian(problem, at, meta, batch, decay + options.damping)
    target = value.params if options.shared else due.params
    solution = conjugate_gradients(hessian, target, options.steps, options.tolerance)
    mixed = mixed_product(problem, at, meta, batch, solution.value)
    moved = tree.norm(tree.subtract(at, params)) / tree.norm(params)
    diagnostics = solution.diagnostics | {
        "solver_steps": float(newton.steps + solution.steps),
        "indefinite": float(bool(newton.indefinite or solution.indefinite)),
        "newton_step": float(moved),
    }
    return Hypergradient(tree.subtract(due.meta, mixed), after, value.loss, diagnostics)
