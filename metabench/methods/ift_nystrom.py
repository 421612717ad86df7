"""Implicit differentiation, the inverse Hessian replaced by that of a Nystrom approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metabench.autodiff.implicit.hypergradient import implicit_hypergradient
from metabench.autodiff.implicit.nystrom import drawn_columns, kept_columns, nystrom, passing_columns
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
    tree,
)
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `ift_nystrom`."""

    rank: int = option(10, minimum=1, help="k, columns of the Hessian; all of them if there are fewer")
    rho: float = option(0.01, above=0, help="added to the diagonal of the approximation")
    storage: str = option(
        "dense", choices=("dense", "blocked"), help="keep all k columns, or `block` at a time for twice the products"
    )
    block: int = option(1, minimum=1, help="columns computed together, in one backward pass if more than one")


def full_rank(at: Curvature) -> list[dict[str, Any]]:
    """Return full rank and a rho far below every eigenvalue: the error is at most rho / h_min."""
    whole = {"rank": at.dimension, "rho": 1e-6 * at.smallest}
    return [whole, {**whole, "storage": "blocked"}, {**whole, "storage": "blocked", "block": 3}]


@method(
    title="implicit differentiation with a Nystrom approximation",
    order=140,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(
        gradients="K + 2",
        hvps="rank + 1, or 2 rank + 3 blocked, and 1 mixed product",
        memory="O(rank |w| + |activations|), or O(block |w| + rank^2 + |activations|) blocked",
        affine_from=2,
    ),
    citation="hataya2023nystrom",
    options=Options,
    stochastic=True,
    # The curve has the paper's rho: with one that lets full rank be exact, every lower rank is off by 1/rho.
    limit=Limit(full_rank, 1e-4, budget="rank", values=(1, 2, 3, 4, 6, 8), curve={"rho": 0.01}),
)
def ift_nystrom(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) (H_k + rho I)^-1 dF/dw at w_K, H_k from k random columns of H. Hataya & Yamada 2023, equations 4 to 6.

    H is d2f/dw2 on the window's last inner batch, plus the inner optimiser's coupled weight decay. If H is positive definite and k the
    number of parameters, the relative error is at most rho over H's smallest eigenvalue; below full rank, rho acts as the eigenvalue of
    every direction that the columns miss. `rho` is this method's damping. One of the declared products computes `solver_residual`.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, or does not exist (see `implicit_hypergradient`).
        Diverged: a column is not finite.
    """
    chosen = drawn_columns(tree.count(state.params), options.rank, generator)
    sketch_of = kept_columns if options.storage == "dense" else passing_columns
    return implicit_hypergradient(
        problem,
        state,
        meta,
        window,
        lambda hessian, target, _: nystrom(hessian, target, chosen, options.rho, sketch_of, options.block),
    )
