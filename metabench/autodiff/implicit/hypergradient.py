"""The implicit hypergradient dF/dl - (d2f/dl dw) q at w_K, where q solves H q = dF/dw, H being the Hessian of what training minimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from metabench.autodiff.derivatives import Recorded, by_segments
from metabench.autodiff.implicit.hessian import DampedHessian
from metabench.autodiff.implicit.linear_solvers import Solution
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.autodiff.products import mixed_product
from metabench.core import tree
from metabench.core.memory import remembered
from metabench.core.method import Hypergradient
from metabench.core.problem import Problem
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone
from metabench.core.types import InnerState, Tree, Window

Solver: TypeAlias = Callable[[DampedHessian, Tree, "Tree | None"], Solution]
"""(H + damping I, the right-hand side dF/dw, a starting point or None) -> a solution."""

ADJOINT = "adjoint"
"""The name of the last solution in the inner run's memory."""


def implicit_hypergradient(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    solve: Solver,
    damping: float = 0.0,
    warm_start: bool = False,
) -> Hypergradient:
    """Run the window's K steps, then differentiate as if w_K were a minimum of what training minimises on the window's last batch.

    With coupled weight decay c in the inner optimiser, training minimises f + c/2 |w|^2, and H = d2f/dw2 + c I.

    Args:
        damping: added to the Hessian's diagonal.
        warm_start: start from the previous window's solution, which the inner run's memory keeps.

    Raises:
        MetabenchError: with a warm start, the memory is of another method or model.
        Unsupported: a minimum of f does not depend on the meta-parameters, outer losses are due before the window's end, or the inner
            optimiser minimises no loss (AdamW with decay).
    """
    refuse_update_and_start_alone(problem, "a minimum of the inner loss does not depend on them")
    outer = refuse_earlier_outer_losses(window, "the minimum has no steps before it")
    shift = decay_of(problem.optimiser) + damping
    last = window.inner[-1]
    start = remembered(state, ADJOINT, state.params) if warm_start else None
    state = run(problem, begun(problem, state, meta), meta, window.inner)
    derivatives = by_segments(problem, state.params, meta, last)
    due = (derivatives or Recorded(problem)).outer(state.params, meta, outer)
    # The Hessian holds the graph of the inner gradient: as a temporary it is gone before the next graph is recorded.
    solution = solve(DampedHessian(problem, state.params, meta, last, shift), due.params, start)
    if derivatives:
        _, mixed = derivatives.products(state.params, meta, last, solution.value, into=None, mixed=True)
    else:
        mixed = mixed_product(problem, state.params, meta, last, solution.value)
    if warm_start:
        state = InnerState(state.params, state.optimiser, {ADJOINT: solution.value})
    return Hypergradient(tree.subtract(due.meta, mixed), state, due.loss, solution.diagnostics)
