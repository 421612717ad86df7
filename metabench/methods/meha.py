"""MEHA: a penalty on the gap between the inner loss and its Moreau envelope; first order only, for inner losses that are not convex."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.gradients import outer_value
from metabench.autodiff.implicit.penalised_pair import PENALISED, Pair, grown
from metabench.autodiff.inner import begun, run
from metabench.core import (
    Cost,
    Curvature,
    Diverged,
    Hypergradient,
    InnerState,
    Keeps,
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
from metabench.core.memory import counted, remembered, windows_before
from metabench.core.schedules import read_schedule
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone

PROXIMAL = "proximal"
"""Name of theta in the memory."""


@dataclass(frozen=True)
class Options:
    """Options of `meha`."""

    penalty: float = option(100.0, above=0, help="c, multiplier of the gap of the inner loss")
    proximal: float = option(10.0, above=0, help="gamma of the envelope min_theta f(theta) + |theta - y|^2 / (2 gamma)")
    steps: int = option(10, minimum=1, help="steps of theta and y, one after the other, per window")
    learning_rate: float = option(0.05, above=0, help="of y, on F / c + f less its envelope")
    proximal_rate: float = option(0.05, above=0, help="eta, of theta")
    schedule: str = option("constant", check=read_schedule, help="of the penalty, over the windows of a run: 'power 0.33' grows")


def _limit(curvature: Curvature) -> dict[str, Any]:
    # With a wide envelope the gap is about as curved as f: its Hessian is gamma H^2 / (1 + gamma H).
    condition = max(curvature.largest / curvature.smallest, 1.0)
    return {
        "penalty": 1e5,
        "proximal": 10 / curvature.smallest,
        "steps": math.ceil(3 * condition / 0.7 * math.log(1e4)),
        "learning_rate": 0.7 / curvature.largest,
        "proximal_rate": 0.7 / curvature.largest,
    }


@method(
    title="MEHA: a penalty on the gap to the Moreau envelope",
    order=175,
    target=Target.IMPLICIT,
    exact=False,
    cost=Cost(gradients="K + 3 steps + 3", forwards="1", memory="O(|w| + |activations|)", affine_from=2),
    citation="liu2024moreau",
    options=Options,
    limit=Limit(_limit, tolerance=2e-3, budget="penalty", values=(10, 100, 1000, 10000, 100000), at_minimum=True),
    keeps=Keeps.META_RUN,
)
def meha(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF/dl(y) + c (df/dl(y) - df/dl(theta)). Liu et al. 2024, algorithm 1, times c.

    The gap is f(y) - min_theta {f(theta) + |theta - y|^2 / (2 gamma)}, which is zero where y is stationary for f. Each step moves
    theta by -eta (df/dw(theta) + (theta - y) / gamma), then y by -alpha (dF/dw(y) / c + df/dw(y) - (y - theta) / gamma): three gradients.
    theta is a constant in the gap. Both are kept while meta-parameters are trained; they begin at w_K. f need not be strongly convex: where
    it is flat, F / c moves y. If the inner optimiser decays the weights, training minimises f + decay/2 |w|^2: that is f here.

    At a strict minimum the error against the implicit hypergradient is of order 1 / c once both have converged.

    Departure from the paper: w_K belongs to the problem's own inner run, the same for all methods, and l moves after y.

    `multiplier` is c; `distance` is |y - theta| / |theta|.

    Raises:
        Unsupported: the meta-parameters enter the inner update or the start alone, outer losses are due before the window's end, or the
            inner optimiser's weight decay is decoupled.
        Diverged: y or theta is not finite.
        MetabenchError: the memory is of another method or model.
    """
    del generator
    refuse_update_and_start_alone(problem, "the two points differ by the inner loss alone")
    outer = refuse_earlier_outer_losses(window, "the inner minimum depends on the last alone")
    pair = Pair(problem, tree.detach(meta), window.inner[-1], outer)
    trained = run(problem, begun(problem, state, meta), meta, window.inner)
    value = outer_value(problem, trained.params, meta, outer)
    y = remembered(state, PENALISED, state.params) or trained.params
    theta = remembered(state, PROXIMAL, state.params) or trained.params
    penalty = grown(options.penalty, options.schedule, windows_before(state))
    for _ in range(options.steps):
        slope = tree.add_scaled(pair.inner(theta).params, 1 / options.proximal, tree.subtract(theta, y))
        theta = tree.add_scaled(theta, -options.proximal_rate, slope)
        slope = tree.add_scaled(pair.inner(y).params, 1 / options.proximal, tree.subtract(theta, y))
        y = tree.add_scaled(y, -options.learning_rate, tree.add_scaled(slope, 1 / penalty, pair.outer(y).params))
    if not (tree.all_finite(y) and tree.all_finite(theta)):
        raise Diverged(f"y or theta is not finite after {options.steps} steps: lower `learning_rate` or `proximal_rate`")
    gap = tree.subtract(pair.inner_meta(y), pair.inner_meta(theta))
    distance = tree.norm(tree.subtract(y, theta)) / tree.norm(theta)
    return Hypergradient(
        tree.add_scaled(pair.outer(y).meta, penalty, gap),
        InnerState(trained.params, trained.optimiser, counted(state, {PENALISED: y, PROXIMAL: theta})),
        value,
        {"multiplier": penalty, "distance": float(distance)},
        answer=y,
    )
