"""F2SA: a fixed penalty on the gap of the inner loss, first order only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.implicit.penalised_pair import Pair, Penalised, penalised_hypergradient
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
    """Options of `f2sa`.

    The paper increases the multiplier over a run and proves rates for its schedule; here it is fixed, because a hypergradient does not know
    its place in a run. At 100 its bias is about one percent if both losses have the same scale, and mini-batch noise does not yet dominate.
    """

    penalty: float = option(100.0, above=0, help="multiplier of the gap between the inner losses at the two points")
    steps: int = option(10, minimum=1, help="gradient steps of the penalised point, per window")
    learning_rate: float = option(0.05, above=0, help="of those steps on f + F / penalty")


def _limit(curvature: Curvature) -> dict[str, Any]:
    # y begins within O(1 / penalty) of where it goes, so that what its steps leave is relative; their length leaves room for F / penalty.
    condition = max(curvature.largest / curvature.smallest, 1.0)
    return {
        "penalty": 1e5,
        "steps": math.ceil(condition / 0.7 * math.log(1e4)),
        "learning_rate": 0.7 / curvature.largest,
    }


@method(
    title="F2SA: a penalty on the gap of the inner loss",
    order=160,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 2 steps + 2", forwards="1", memory="O(|w| + |activations|)", affine_from=2),
    citation="kwon2023fully",
    options=Options,
    limit=Limit(_limit, tolerance=1e-3, budget="penalty", values=(10, 100, 1000, 10000, 100000), at_minimum=True),
)
def f2sa(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y, l) + penalty (df/dl(y, l) - df/dl(z, l)). Kwon et al. 2023, algorithm 1.

    z = w_K is the end of the window's K steps, y a point near the minimum of f + F / penalty: `steps` gradient steps from the last window's
    y, kept in the state's memory, or from z in the first. If the inner optimiser decays the weights, training minimises f + decay/2
    |w|^2, and so does y. Once both have converged, the error against the implicit hypergradient is of order 1 / penalty.

    `distance` is |y - z| / |z|, which falls as 1 / penalty while y and z stay in one basin.

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start, outer losses are due before the window's end, or the inner
            optimiser's weight decay is decoupled.
    """
    del generator

    def descend(pair: Pair, params: Tree, at_trained: Tree) -> Penalised:
        for _ in range(options.steps):
            slope = tree.add_scaled(pair.inner(params).params, 1 / options.penalty, pair.outer(params).params)
            params = tree.add_scaled(params, -options.learning_rate, slope)
        gap = tree.subtract(pair.inner_meta(params), at_trained)
        return Penalised(params, tree.add_scaled(pair.outer(params).meta, options.penalty, gap), options.penalty)

    return penalised_hypergradient(problem, state, meta, window, descend)
