"""BOME: descent on the outer loss that keeps the gap of the inner loss falling; first order only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.implicit.penalised_pair import Pair, Penalised, Slopes, penalised_hypergradient
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
    """Options of `bome`; eta and one step per hypergradient are the paper's."""

    eta: float = option(0.5, above=0, help="rate at which the gap of the inner loss must fall: phi = eta |grad q|^2")
    joint: bool = option(
        True,
        help="take the multiplier's grad F and grad q with respect to (l, y), as in the paper, or to y alone",
    )
    steps: int = option(1, minimum=1, help="steps of the penalised point, per window")
    learning_rate: float = option(0.05, above=0, help="of those steps")


def _limit(curvature: Curvature) -> dict[str, Any]:
    # The direction of y - w_K settles at the rate of the smallest eigenvalue over the largest, whatever the learning rate; its length is
    # proportional to the learning rate, and so is the error that is left.
    condition = max(curvature.largest / curvature.smallest, 1.0)
    return {
        "joint": False,
        "steps": math.ceil(4 * condition) + 50,
        "learning_rate": 1e-5 / curvature.largest,
    }


@method(
    title="BOME: outer descent under a falling gap of the inner loss",
    order=170,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2 steps + 2", forwards="1", memory="O(|w| + |activations|)", affine_from=2),
    citation="ye2022bome",
    options=Options,
    limit=Limit(_limit, tolerance=1e-3, budget="learning_rate", values=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5), at_minimum=True),
)
def bome(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y, l) + c (df/dl(y, l) - df/dl(w_K, l)), c = max(eta - <grad F, grad q> / |grad q|^2, 0). Ye et al. 2022, equations 3-6.

    q(y, l) = f(y, l) - f(w_K, l) is the gap of the inner loss; w_K, the end of the window's K steps, is a constant in it. c is the smallest
    multiplier for which a step along grad F + c grad q decreases q at a rate of eta |grad q|^2. y takes `steps` such steps from the
    last window's y, kept in the state's memory, or from w_K in the first; the hypergradient is the l part of the same direction.
    Where the inner optimiser decays the weights, training minimises f + decay/2 |w|^2: that is f here.

    Departures from the paper: there K steps of gradient descent lead from y to w_K in every iteration, and l and y move together.
    Here w_K belongs to the problem's own inner run, the same for all methods, and the outer optimiser moves l after y. Since l
    is fixed while y moves, y settles where c = eta (1 + |dq/dy|^2 / |dq/dl|^2) and dF/dy + c dq/dy = 0: the error against the
    implicit hypergradient is of order 1/c. With `joint: false` the multiplier reads the slopes of y alone, which is what moves. Then c
    grows as the gap closes, until it is of order 1/learning_rate: the error is of the order of the learning rate.

    `multiplier` is c; `distance` is |y - w_K| / |w_K|.

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start, outer losses are due before the window's end, or the inner
            optimiser's weight decay is decoupled.
    """
    del generator

    def descend(pair: Pair, points: Sequence[Tree], at_trained: Tree) -> Penalised:
        (params,) = points
        outer, gap = _slopes(pair, params, at_trained)
        for _ in range(options.steps):
            slope = tree.add_scaled(outer.params, multiplier(outer, gap, options), gap.params)
            params = tree.add_scaled(params, -options.learning_rate, slope)
            outer, gap = _slopes(pair, params, at_trained)
        factor = multiplier(outer, gap, options)
        return Penalised([params], tree.add_scaled(outer.meta, factor, gap.meta), factor)

    return penalised_hypergradient(problem, state, meta, window, descend)


def multiplier(outer: Slopes, gap: Slopes, options: Options) -> float:
    """Return max((phi - <grad F, grad q>) / |grad q|^2, 0) with phi = eta |grad q|^2. Equation 5.

    It is 0 where the gap has no slope above rounding.
    """
    squared, inner_product = tree.dot(gap.params, gap.params), tree.dot(outer.params, gap.params)
    if options.joint:
        squared, inner_product = squared + tree.dot(gap.meta, gap.meta), inner_product + tree.dot(outer.meta, gap.meta)
    # Where the gap has no slope but rounding, what its direction says is rounding too.
    rounding = 100 * torch.finfo(squared.dtype).eps * float(tree.norm(outer.params))
    if not float(squared) > rounding**2:
        return 0.0
    return max(options.eta - float(inner_product) / float(squared), 0.0)


def _slopes(pair: Pair, params: Tree, at_trained: Tree) -> tuple[Slopes, Slopes]:
    """Return the slopes of F and of the gap q = f(y, l) - f(w_K, l), in which w_K is a constant."""
    inner = pair.inner(params)
    return pair.outer(params), Slopes(inner.params, tree.subtract(inner.meta, at_trained))
