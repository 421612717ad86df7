"""Implicit differentiation at a fixed point of the inner step, by iterating the step's adjoint."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.implicit.fixed_point import fixed_point_hypergradient
from metabench.core import Cost, Hypergradient, InnerState, Limit, Problem, Target, Tree, Window, method, option
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `ift_fixed_point`."""

    steps: int = option(20, minimum=1, help="most steps of the fixed-point iteration")
    tolerance: float = option(1e-10, minimum=0, help="relative residual at which the iteration stops")
    damping: float = option(0.0, minimum=0, help="added to the Hessian's diagonal within the step")
    warm_start: bool = option(False, help="start from the previous window's solution")


@method(
    title="implicit differentiation at a fixed point of the inner step",
    order=150,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(
        gradients="K + 2",
        hvps="steps + 1 mixed product, each through the update",
        memory="O(|state| + |activations|)",
        affine_from=2,
    ),
    citation="grazzi2020iteration",
    options=Options,
    # The rate is that of the inner optimiser's own convergence, which the curvature alone does not tell: the tolerance decides.
    limit=Limit(
        lambda at: {"steps": 20000, "tolerance": 1e-10},
        1e-6,
        budget="steps",
        values=(1, 2, 5, 10, 20, 50, 100, 200),
        at_minimum=True,
    ),
)
def ift_fixed_point(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl + (dPhi/dl)^T a at the state after K steps, a = (dPhi/d(w, s))^T a + (dF/dw, 0). Grazzi et al. 2020, equation 7.

    Phi is the inner step on the window's last batch, with the optimiser's slots s a part of the state; only its VJPs are taken. With SGD,
    momentum and Nesterov, weight decay included, this tends to the implicit hypergradient at the optimiser's own rate. Adam and RMSprop
    are linearised at the current state: away from a minimum their slots still move, and the result belongs to that linear map.
    `contracting` is 0 if the iteration does not settle: the map's spectral radius is above 1.

    A scheduled learning rate counts as constant, at its value after K steps. The fixed point of SGD does not depend on that value, but the
    iteration takes steps of that length: the smaller the rate, the more steps. At a rate of 0 every point is a fixed point, `contracting`
    is 0, and what is left is the direct dF/dl.

    Raises:
        Unsupported: the fixed point does not depend on the meta-parameters, or outer losses are due before the window's end.
        Diverged: an iterate is not finite.
    """
    del generator
    return fixed_point_hypergradient(
        problem,
        state,
        meta,
        window,
        steps=options.steps,
        tolerance=options.tolerance,
        damping=options.damping,
        warm_start=options.warm_start,
    )
