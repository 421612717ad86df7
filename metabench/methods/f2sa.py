"""F2SA: a fixed penalty on the gap of the inner loss, first order only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.implicit.penalised_pair import PENALISED, Pair, Penalised, grown, penalised_hypergradient
from metabench.core import (
    Cost,
    Curvature,
    Hypergradient,
    InnerState,
    Limit,
    MetabenchError,
    Problem,
    Target,
    Tree,
    Window,
    method,
    option,
    tree,
)
from metabench.core.lazy import torch
from metabench.core.schedules import read_schedule


@dataclass(frozen=True)
class Options:
    """Options of `f2sa`.

    The paper increases the multiplier over a run and proves rates for its schedule ('power 0.33', say); by default it is fixed. At 100 its
    bias is about one percent if both losses have the same scale, and mini-batch noise does not yet dominate.
    """

    penalty: float = option(100.0, above=0, help="multiplier of the gap between the inner losses at the two points")
    steps: int = option(10, minimum=1, help="gradient steps of the penalised point, per window")
    learning_rate: float = option(0.05, above=0, help="of those steps on f + F / penalty")
    order: int = option(
        1, minimum=1, maximum=4, help="p of the difference, 1, 2 or 4: as many points, and an error of order penalty^-p"
    )
    schedule: str = option("constant", check=read_schedule, help="of the penalty, over the windows of an inner run: 'power 0.33' grows")


_DIFFERENCES: dict[int, dict[int, float]] = {
    1: {1: 1.0},
    2: {1: 1 / 2, -1: -1 / 2},
    4: {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12},
}
"""By order, the weights of a derivative's difference at each multiple of 1 / penalty; of order 1 zero, where w_K is, has the rest."""


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
    citation="kwon2023fully zucchet2022contrastive chen2025f2sap",
    options=Options,
    limit=Limit(_limit, tolerance=1e-3, budget="penalty", values=(10, 100, 1000, 10000, 100000), at_minimum=True),
)
def f2sa(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y, l) + penalty (df/dl(y, l) - df/dl(z, l)). Kwon et al. 2023, algorithm 1; `order` 2 and 4: Chen et al. 2025.

    z = w_K is the end of the window's K steps, y a point near the minimum of f + F / penalty: `steps` gradient steps from the last window's
    y, kept in the state's memory, or from z in the first. If the inner optimiser decays the weights, training minimises f + decay/2
    |w|^2, and so does y. Once both have converged, the error against the implicit hypergradient is of order 1 / penalty.

    This is a forward difference, in b = 1 / penalty at 0, of df/dl + b dF/dl at y_b, the minimum of f + b F: by the envelope theorem
    the derivative of min_w f + b F by l, whose derivative by b is the implicit hypergradient (Zucchet et al. 2022). With `order` 2 or 4
    it is the central one, of points at +-b, and +-2b: the error is of order penalty^-2 or penalty^-4, at as many descents. f - b F
    needs a minimum.

    `distance` is |y - z| / |z|, which falls as 1 / penalty while y and z stay in one basin.

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start, outer losses are due before the window's end, or the inner
            optimiser's weight decay is decoupled.
        Diverged: a point is not finite: f - F / penalty may have no minimum.
        MetabenchError: there is no difference of that order; or the memory is of another method, model or order.
    """
    del generator
    if options.order not in _DIFFERENCES:
        raise MetabenchError(f"option 'order' of method 'f2sa': must be 1, 2 or 4, got {options.order}")
    weights = _DIFFERENCES[options.order]

    def descend(pair: Pair, points: Sequence[Tree], at_trained: Tree) -> Penalised:
        penalty = grown(options.penalty, options.schedule, pair.windows)
        ended, total = [], None
        for (times, weight), params in zip(weights.items(), points, strict=True):
            for _ in range(options.steps):
                slope = tree.add_scaled(pair.inner(params).params, times / penalty, pair.outer(params).params)
                params = tree.add_scaled(params, -options.learning_rate, slope)
            # What is taken off is the same for all points, and weights of an even order add up to nothing.
            gap = tree.subtract(pair.inner_meta(params), at_trained)
            term = tree.add_scaled(tree.scale(weight * times, pair.outer(params).meta), weight * penalty, gap)
            total = term if total is None else tree.add(total, term)
            ended.append(params)
        assert total is not None
        return Penalised(ended, total, penalty)

    names = [PENALISED if times == 1 else f"{PENALISED} {times:+d}" for times in weights]
    return penalised_hypergradient(problem, state, meta, window, descend, names)
