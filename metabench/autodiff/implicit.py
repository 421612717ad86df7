"""The implicit hypergradient dF/dl - (d2f/dl dw) q at w_K, where q solves (d2f/dw2) q = dF/dw."""

from __future__ import annotations

from collections.abc import Callable

from metabench.autodiff.gradients import outer_gradient
from metabench.autodiff.inner import begin, detached, run
from metabench.autodiff.linear_solvers import Operator, Solution
from metabench.autodiff.products import hessian_operator, mixed_product
from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.method import Hypergradient
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import InnerState, Tree, Window


def implicit_hypergradient(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    solve: Callable[[Operator, Tree], Solution],
    damping: float = 0.0,
) -> Hypergradient:
    """Run the window's K steps, then differentiate as if w_K were a minimum of the inner loss on the window's last batch.

    Args:
        solve: from the operator v -> (d2f/dw2 + damping I) v and the right-hand side dF/dw to a solution.
        damping: added to the Hessian's diagonal.

    Raises:
        Unsupported: the meta-parameters enter where a minimum of f does not see them, or outer losses are due before the window's end.
    """
    if problem.roles & {MetaRole.UPDATE, MetaRole.START}:
        raise Unsupported(
            "the meta-parameters enter the inner update or the start: a minimum of the inner loss does not depend on them"
        )
    if any(batch is not None for batch in window.outer[:-1]):
        raise Unsupported("outer losses are due before the end of the window, and the minimum has no steps before it")
    last = window.inner[-1]
    state = run(problem, detached(begin(problem, state, meta)), meta, window.inner)
    due = outer_gradient(problem, state.params, meta, window.outer[-1])
    # The operator holds the graph of the inner gradient: as a temporary it is gone before the next graph is recorded.
    solution = solve(_damped(hessian_operator(problem, state.params, meta, last), damping), due.params)
    mixed = mixed_product(problem, state.params, meta, last, solution.value)
    diagnostics = {
        "solver_steps": float(solution.steps),
        "solver_residual": solution.residual,
        "indefinite": float(solution.indefinite),
    }
    return Hypergradient(tree.subtract(due.meta, mixed), state, due.loss, diagnostics)


def _damped(product: Operator, damping: float) -> Operator:
    return lambda direction: tree.add_scaled(product(direction), damping, direction)
