"""Implicit differentiation, the inverse Hessian applied by a truncated Neumann series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.implicit.hypergradient import implicit_hypergradient
from metabench.autodiff.implicit.linear_solvers import neumann_series
from metabench.core import (
    Cost,
    Curvature,
    Hypergradient,
    InnerState,
    Limit,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
)
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `ift_neumann`."""

    steps: int = option(10, minimum=0, help="terms of the series after the first")
    scale: float = option(
        0.1, above=0, help="alpha: the series converges where the Hessian's eigenvalues lie in (0, 2/alpha)"
    )
    tolerance: float = option(0.0, minimum=0, help="relative residual at which the solver stops")
    damping: float = option(0.0, minimum=0, help="added to the Hessian's diagonal")
    warm_start: bool = option(False, help="continue from the previous window's solution: no longer a truncated series")


def converged(at: Curvature) -> list[dict[str, Any]]:
    """Return options that leave (1 - scale h)^(steps + 1) <= 1e-7 of every eigencomponent, with the scale at 1/h_max and 0.3 of it."""

    def enough(scale: float) -> int:
        contraction = 1 - scale * at.smallest
        return 1 if contraction <= 1e-7 else math.ceil(math.log(1e-7) / math.log(contraction))

    return [{"steps": enough(scale), "scale": scale} for scale in (1 / at.largest, 0.3 / at.largest)]


@method(
    title="implicit differentiation with a Neumann series",
    order=130,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2", hvps="steps + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="lorraine2020optimizing",
    options=Options,
    limit=Limit(converged, 1e-6, budget="steps", values=(0, 1, 2, 5, 10, 20, 50, 100)),
)
def ift_neumann(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) alpha sum_{j<=steps} (I - alpha H)^j dF/dw at w_K. Lorraine et al. 2020, algorithm 3.

    H is d2f/dw2 on the window's last inner batch, plus the inner optimiser's coupled weight decay and the damping. A warm start adds
    as many terms to the last solution, which is then gradient descent on the linear system rather than a truncated series. The
    diagnostic `contracting` is 0 where the terms grow: the scale is too large, or H is indefinite.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, or does not exist (see `implicit_hypergradient`).
        Diverged: a term is not finite.
    """
    del generator
    return implicit_hypergradient(
        problem,
        state,
        meta,
        window,
        lambda hessian, target, start: neumann_series(
            hessian, target, options.steps, options.scale, options.tolerance, start
        ),
        options.damping,
        options.warm_start,
    )
