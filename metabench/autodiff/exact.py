"""The exact value of each target, at any cost: the reference for hypergradients."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.gradients import inner_gradient, outer_gradient
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.products import hessian_operator, mixed_product
from metabench.autodiff.unrolled.last_step import before_last
from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.method import Target
from metabench.core.problem import Problem
from metabench.core.types import Batch, InnerState, Tree, Window

DENSE_LIMIT = 2000
"""Inner parameters up to which a Hessian is formed and solved."""
_NEWTON_STEPS = 50


def exact_target(
    target: Target, problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any
) -> Tree | None:
    """Return the exact value of `target` for a window, or None if it has none, no closed form here, or too large a Hessian.

    `truncated` reads the number of steps from `options.steps`.
    """
    # A checkpoint has no windows before it: what is carried begins there.
    if target in (Target.UNROLLED, Target.CARRIED):
        return through_graph(problem, state, meta, window).meta
    if target in (Target.TRUNCATED, Target.ONE_STEP):
        steps = 1 if target is Target.ONE_STEP else min(options.steps, len(window.inner))
        return exact_truncated(problem, state, meta, window, steps)
    if target.of_minimum and tree.count(state.params) <= DENSE_LIMIT:
        try:
            return exact_implicit(problem, state, meta, window, to_minimum=target is Target.MINIMUM)
        except Unsupported:
            return None
    return None


def exact_truncated(problem: Problem, state: InnerState, meta: Tree, window: Window, steps: int) -> Tree:
    """Return the hypergradient through the last `steps` inner steps, the state before them held constant."""
    if steps < len(window.inner):
        state = before_last(problem, state, meta, window, steps)
    return through_graph(problem, state, meta, window.last(steps)).meta


def exact_implicit(
    problem: Problem, state: InnerState, meta: Tree, window: Window, to_minimum: bool = False
) -> Tree | None:
    """Return dF/dl - (d2f/dl dw) H^-1 dF/dw at w_K, or at the minimum that Newton's method reaches from there; H formed and solved.

    H is the Hessian, on the window's last inner batch, of what training minimises: d2f/dw2 + c I with coupled weight decay c. None where
    Newton's method meets a direction of negative curvature, or does not arrive.

    Raises:
        Unsupported: the inner optimiser minimises no loss (AdamW with decay).
    """
    decay = decay_of(problem.optimiser)
    params = run(problem, begun(problem, state, meta), meta, window.inner).params
    if to_minimum and (params := _minimum(problem, params, meta, window.inner[-1], decay)) is None:
        return None
    outer = window.outer[-1]
    assert outer is not None
    due = outer_gradient(problem, params, meta, outer)
    hessian = _dense(problem, params, meta, window.inner[-1], decay)
    solution = torch.linalg.solve(hessian, tree.flatten(due.params))
    mixed = mixed_product(problem, params, meta, window.inner[-1], tree.unflatten(solution, params))
    return tree.subtract(due.meta, mixed)


def _dense(problem: Problem, params: Tree, meta: Tree, batch: Batch, decay: float) -> torch.Tensor:
    """Return d2f/dw2 + decay I, dense."""
    product, some = hessian_operator(problem, params, meta, batch), next(iter(params.values()))
    identity = torch.eye(tree.count(params), dtype=some.dtype, device=some.device)
    return torch.stack([tree.flatten(product(tree.unflatten(row, params))) for row in identity]) + decay * identity


def _minimum(problem: Problem, params: Tree, meta: Tree, batch: Batch, decay: float) -> Tree | None:
    """Return the minimum of f + decay/2 |w|^2 that Newton's method reaches; None where it does not."""
    rounding = torch.finfo(next(iter(params.values())).dtype).eps
    for _ in range(_NEWTON_STEPS):
        slope = tree.add_scaled(inner_gradient(problem, params, meta, batch), decay, params)
        hessian = _dense(problem, params, meta, batch, decay)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            return None
        step = torch.cholesky_solve(tree.flatten(slope)[:, None], factor)[:, 0]
        params = tree.subtract(params, tree.unflatten(step, params))
        if float(step.norm()) <= 100 * rounding * float(tree.norm(params)):
            return params
    return None
