"""Single-loop implicit differentiation: the linear system moves by one step a window, beside the parameters and the meta-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from metabench.autodiff.derivatives import Derivatives, Recorded, by_segments
from metabench.autodiff.gradients import OuterGradient
from metabench.autodiff.implicit.hypergradient import ADJOINT
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.core import (
    Cost,
    Diverged,
    Hypergradient,
    InnerState,
    Keeps,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.memory import remembered
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone
from metabench.core.types import Batch

LAST, OWN = "last", "own"


@dataclass(frozen=True)
class Options:
    """Options of `single_loop`."""

    rate: float = option(0.1, above=0, help="rho of a step of v; it settles where the Hessian's eigenvalues lie in (0, 2 / rho)")
    batches: str = option(
        LAST,
        choices=(LAST, OWN),
        help="the Hessian and the mixed product on the window's last batch; or each on its own, the last and the one before it",
    )
    momentum: float = option(
        0.0, minimum=0, maximum=1, help="weight of what the last window's estimates were off by (STORM), for as many products again"
    )


class _Point(NamedTuple):
    """Where the three directions of a single-loop method are taken."""

    params: Tree
    meta: Tree
    adjoint: Tree


class _Directions:
    """The directions of v and l on the batches of a window, at any point."""

    def __init__(self, problem: Problem, point: _Point, hessian: Batch, mixed: Batch, outer: Batch) -> None:
        chosen = by_segments(problem, point.params, point.meta, hessian)
        self._derivatives: Derivatives = chosen or Recorded(problem)
        self._decay, self._hessian, self._mixed, self._outer = decay_of(problem.optimiser), hessian, mixed, outer

    def outer(self, at: _Point) -> OuterGradient:
        """Return F, dF/dw and dF/dl."""
        return self._derivatives.outer(at.params, at.meta, self._outer)

    def of_adjoint(self, at: _Point, due: OuterGradient) -> Tree:
        """Return H v - dF/dw."""
        into = tree.add_scaled(tree.scale(-1.0, due.params), self._decay, at.adjoint)
        return self._derivatives.products(at.params, at.meta, self._hessian, at.adjoint, into=into, mixed=False)[0]

    def of_meta(self, at: _Point, due: OuterGradient, adjoint: Tree) -> Tree:
        """Return dF/dl - (d2f/dl dw) v for a given v."""
        _, mixed = self._derivatives.products(at.params, at.meta, self._mixed, adjoint, into=None, mixed=True)
        return tree.subtract(due.meta, mixed)


@method(
    title="single loop: one step of the linear system per window",
    order=155,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 1", hvps="1 + 1 mixed product", memory="O(|w| + |activations|)", affine_from=2),
    citation="dagreou2022framework li2022fully khanduri2021near",
    options=Options,
    keeps=Keeps.META_RUN,
)
def single_loop(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl - (d2f/dl dw) v at w_K, v moved by one step -rho (H v - dF/dw). Dagréou et al. 2022, SOBA.

    v is kept while meta-parameters are trained, also where another inner run begins; at first it is zero. H is d2f/dw2 on the
    window's last inner batch, plus the inner optimiser's coupled weight decay. While l and w stay where they are, v tends to H^-1
    dF/dw, and the hypergradient to the implicit one. On one batch and without momentum this is `ift_neumann` with one step and a warm
    start, which forgets where a run begins.

    With `batches: own` the mixed product is taken on the inner batch before the last: the two products are then independent, as theorems
    that count samples ask (Li et al. 2022, too); a window of one step has one batch. With `momentum` m both directions are STORM
    estimates: e = D + m (e_before - D_before), where D_before is the direction at the last window's w, l and v on the batches of
    this one. Khanduri et al. 2021, algorithm 1; there m = 1 - eta changes along a run, and here it is fixed.

    Departures from the papers: w is moved by the problem's own inner run, K steps a window, and v before l.

    The diagnostic `solver_residual` is |H v - dF/dw| / |dF/dw| before the step.

    Raises:
        Unsupported: a minimum of the inner loss does not depend on the meta-parameters, outer losses are due before the window's end, or
            the inner optimiser minimises no loss (AdamW with decay).
        Diverged: v is not finite.
        MetabenchError: the memory is of another method or model.
    """
    del generator
    refuse_update_and_start_alone(problem, "a minimum of the inner loss does not depend on them")
    outer = refuse_earlier_outer_losses(window, "the minimum has no steps before it")
    decay_of(problem.optimiser)
    meta = tree.detach(meta)
    after = run(problem, begun(problem, state, meta), meta, window.inner)
    adjoint = remembered(state, ADJOINT, state.params) or tree.zeros_like(state.params)
    at = _Point(after.params, meta, adjoint)
    apart = options.batches == OWN and len(window.inner) > 1
    directions = _Directions(problem, at, window.inner[-1], window.inner[-2 if apart else -1], outer)
    due = directions.outer(at)
    step = raw = directions.of_adjoint(at, due)
    before = _before(state, meta) if options.momentum else None
    if before is not None:
        past = directions.outer(before)
        step = _corrected(step, options.momentum, state.memory[STEP], directions.of_adjoint(before, past))
    moved = tree.add_scaled(adjoint, -options.rate, step)
    if not tree.all_finite(moved):
        raise Diverged(f"v is not finite after a step of rate {options.rate}: is the rate above 2 over the Hessian's largest eigenvalue?")
    found = directions.of_meta(at, due, moved)
    if before is not None:
        # There v was moved before it was used, too: to what it is now.
        found = _corrected(found, options.momentum, state.memory[ESTIMATE], directions.of_meta(before, past, adjoint))
    kept = {ADJOINT: moved}
    if options.momentum:
        kept |= {BEFORE: adjoint, PARAMS: after.params, META: meta, STEP: step, ESTIMATE: found}
    size = float(tree.norm(due.params))
    residual = float(tree.norm(raw)) / size if size else 0.0
    return Hypergradient(
        found, InnerState(after.params, after.optimiser, kept), due.loss, {"solver_residual": residual}
    )


BEFORE, PARAMS, META, STEP, ESTIMATE = "adjoint before", "params", "meta", "step", "estimate"
"""What STORM keeps besides v: the last window's v, w and l, and its two estimates."""


def _before(state: InnerState, meta: Tree) -> _Point | None:
    """Return where the last window's directions were taken; None at first."""
    if not state.memory:
        return None
    remembered(state, STEP, state.params)
    remembered(state, ESTIMATE, meta)
    places = ((PARAMS, state.params), (META, meta), (BEFORE, state.params))
    params, values, adjoint = (remembered(state, name, like) for name, like in places)
    assert params is not None and values is not None and adjoint is not None
    return _Point(params, values, adjoint)


def _corrected(new: Tree, momentum: float, estimate: Tree, there: Tree) -> Tree:
    """Return the STORM estimate D + m (e_before - D_before). Cutkosky & Orabona 2019."""
    return tree.add_scaled(new, momentum, tree.subtract(estimate, there))
