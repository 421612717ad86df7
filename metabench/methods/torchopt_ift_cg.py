"""Implicit differentiation by the library TorchOpt, with its `custom_root` and conjugate gradients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.gradients import gradients
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.peers import library
from metabench.core import (
    Cost,
    Hypergradient,
    InnerState,
    Limit,
    Peer,
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

SEES = "a minimum of the inner loss does not depend on them"


@dataclass(frozen=True)
class Options:
    """Options of `torchopt_ift_cg`."""

    steps: int = option(10, minimum=1, help="maxiter: most conjugate gradient steps")
    tolerance: float = option(1e-10, minimum=0, help="rtol: relative residual at which the solver stops")


@method(
    title="implicit differentiation with conjugate gradients by the library TorchOpt (0.7.3 or later)",
    order=230,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 3", hvps="steps + 2 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="ren2023torchopt",
    options=Options,
    peer=Peer("TorchOpt 0.7.3 or later"),
    limit=Limit(
        # Rounding takes conjugate gradients past as many steps as dimensions.
        lambda curvature: {"steps": 3 * curvature.dimension, "tolerance": 0.0},
        tolerance=1e-8,
        budget="steps",
        values=(1, 2, 3, 4, 6, 8),
    ),
)
def torchopt_ift_cg(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) H^-1 dF/dw at w_K by `torchopt.diff.implicit.custom_root`. Ren et al. 2023, section 2.

    The root is that of df/dw on the window's last inner batch, plus the inner optimiser's coupled weight decay; H is its Jacobian. The
    solver is `torchopt.linear_solve.solve_cg`. It takes one more product than steps, for the residual at zero, and does not look for
    directions of negative curvature: with an indefinite Hessian it continues silently. A tolerance below the rounding of the dtype
    is raised to it, or the solver would divide zero by zero.

    Raises:
        Unsupported: TorchOpt is not installed; a minimum of f does not depend on the meta-parameters; outer losses are due
            before the window's end; or the inner optimiser minimises no loss (AdamW with decay).
    """
    del generator
    refuse_update_and_start_alone(problem, SEES)
    due = refuse_earlier_outer_losses(window, "the minimum has no steps before it")
    decay = decay_of(problem.optimiser)
    torchopt = library("torchopt")
    final = run(problem, begun(problem, state, meta), meta, window.inner)
    names, meta_names = list(final.params), list(meta)
    last = window.inner[-1]
    products = 0

    def stationarity(params: tuple[torch.Tensor, ...], leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        def loss(point: Tree) -> torch.Tensor:
            return problem.inner_loss(point, dict(zip(meta_names, leaves, strict=True)), last)

        point = dict(zip(names, params, strict=True))
        slope = torch.func.grad(loss)(point)
        if decay:
            slope = tree.add_scaled(slope, decay, point)
        return tuple(slope[name] for name in names)

    def solve(product: Any, target: Any) -> Any:
        def counted(direction: Any) -> Any:
            nonlocal products
            products += 1
            return product(direction)

        rounding = torch.finfo(final.params[names[0]].dtype).eps
        solver = torchopt.linear_solve.solve_cg(maxiter=options.steps, rtol=max(options.tolerance, rounding), atol=0.0)
        return solver(counted, target)

    def trained(params: tuple[torch.Tensor, ...], leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        del leaves
        return params

    variables = tree.leaves_for_grad(meta)
    with torch.enable_grad(), warnings.catch_warnings():
        # TorchOpt calls torch.func by its old name, and torch says so at every call.
        warnings.simplefilter("ignore", FutureWarning)
        solver = torchopt.diff.implicit.custom_root(stationarity, argnums=1, solve=solve)(trained)
        root = solver(tuple(final.params.values()), tuple(variables.values()))
        objective = problem.outer_loss(dict(zip(names, root, strict=True)), variables, due)
        (hypergradient,) = gradients(objective, [variables])
    return Hypergradient(hypergradient, final, float(objective.detach()), {"solver_steps": float(max(products - 1, 0))})
