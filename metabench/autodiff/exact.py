"""The exact value of each target, at any cost: the reference for hypergradients."""

from __future__ import annotations

from typing import Any

from metabench.autodiff.gradients import outer_gradient
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
from metabench.core.types import InnerState, Tree, Window

DENSE_LIMIT = 2000
"""Inner parameters up to which a Hessian is formed and solved."""


def exact_target(
    target: Target, problem: Problem, state: InnerState, meta: Tree, window: Window, options: Any
) -> Tree | None:
    """Return the exact value of `target` for a window, or None if it has none, no closed form here, or too large a Hessian.

    `truncated` reads the number of steps from `options.steps`.
    """
    if target is Target.UNROLLED:
        return through_graph(problem, state, meta, window).meta
    if target in (Target.TRUNCATED, Target.ONE_STEP):
        steps = 1 if target is Target.ONE_STEP else min(options.steps, len(window.inner))
        return exact_truncated(problem, state, meta, window, steps)
    if target is Target.IMPLICIT and tree.count(state.params) <= DENSE_LIMIT:
        try:
            return exact_implicit(problem, state, meta, window)
        except Unsupported:
            return None
    return None


def exact_truncated(problem: Problem, state: InnerState, meta: Tree, window: Window, steps: int) -> Tree:
    """Return the hypergradient through the last `steps` inner steps, the state before them held constant."""
    if steps < len(window.inner):
        state = before_last(problem, state, meta, window, steps)
    return through_graph(problem, state, meta, window.last(steps)).meta


def exact_implicit(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Tree:
    """Return dF/dl - (d2f/dl dw) H^-1 dF/dw at w_K, H formed and solved.

    H is the Hessian, on the window's last inner batch, of what training minimises: d2f/dw2 + c I with coupled weight decay c.

    Raises:
        Unsupported: the inner optimiser minimises no loss (AdamW with decay).
    """
    decay = decay_of(problem.optimiser)
    params = run(problem, begun(problem, state, meta), meta, window.inner).params
    outer = window.outer[-1]
    assert outer is not None
    due = outer_gradient(problem, params, meta, outer)
    product = hessian_operator(problem, params, meta, window.inner[-1])
    size = tree.count(params)
    identity = torch.eye(size, dtype=next(iter(params.values())).dtype, device=next(iter(params.values())).device)
    hessian = torch.stack([tree.flatten(product(tree.unflatten(row, params))) for row in identity]) + decay * identity
    solution = torch.linalg.solve(hessian, tree.flatten(due.params))
    mixed = mixed_product(problem, params, meta, window.inner[-1], tree.unflatten(solution, params))
    return tree.subtract(due.meta, mixed)
