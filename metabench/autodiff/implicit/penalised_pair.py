"""The value-function pair: first-order hypergradients from two points, one that minimises f and one pulled towards F.

A minimum of f over w is where the gap f(w, l) - min_w f(w, l) is zero. Penalising the gap with a multiplier c gives a single-level
problem, F(w, l) + c (f(w, l) - f(w_K, l)), whose gradient with respect to l is first order:
    dF/dl(y, l) + c (df/dl(y, l) - df/dl(w_K, l)),
y an approximate minimum over w of F + c f, and w_K, from the problem's own inner run, of f.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metabench.autodiff.gradients import gradients, inner_meta_gradient, outer_gradient, outer_value
from metabench.autodiff.inner import begun, run
from metabench.autodiff.optimisers import decay_of
from metabench.core import tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.memory import counted, remembered, windows_before
from metabench.core.method import Hypergradient
from metabench.core.problem import Problem
from metabench.core.schedules import read_schedule
from metabench.core.support import refuse_earlier_outer_losses, refuse_update_and_start_alone
from metabench.core.types import Batch, InnerState, Tree, Window

PENALISED = "penalised"
"""Key of y in the inner run's memory."""


class Slopes(NamedTuple):
    """First-order derivatives of a function of (w, l)."""

    params: Tree
    meta: Tree


class Pair:
    """The two losses of a window at its end, f with the weight decay that training adds to it, as functions of w.

    `windows` counts those before this one in the memory: a penalty may grow with them.
    """

    def __init__(self, problem: Problem, meta: Tree, inner: Batch, outer: Batch, windows: int = 0) -> None:
        self.windows = windows
        self._problem, self._meta, self._inner, self._outer = problem, meta, inner, outer
        self._decay = decay_of(problem.optimiser)

    def inner(self, params: Tree) -> Slopes:
        """Return the slopes of f + decay/2 |w|^2."""
        leaves, meta = tree.leaves_for_grad(params), tree.leaves_for_grad(self._meta)
        with torch.enable_grad():
            d_params, d_meta = gradients(self._problem.inner_loss(leaves, meta, self._inner), [leaves, meta])
        return Slopes(tree.add_scaled(d_params, self._decay, params) if self._decay else d_params, d_meta)

    def inner_meta(self, params: Tree) -> Tree:
        """Return df/dl alone."""
        return inner_meta_gradient(self._problem, params, self._meta, self._inner)

    def outer(self, params: Tree) -> Slopes:
        """Return the slopes of F."""
        _, d_params, d_meta = outer_gradient(self._problem, params, self._meta, self._outer)
        return Slopes(d_params, d_meta)


class Penalised(NamedTuple):
    """The end of the descents: the points, y first, the hypergradient there, and the multiplier of the gap."""

    points: Sequence[Tree]
    meta: Tree
    multiplier: float


def penalised_hypergradient(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    descend: Callable[[Pair, Sequence[Tree], Tree], Penalised],
    points: Sequence[str] = (PENALISED,),
) -> Hypergradient:
    """Run the window's K steps to w_K, then descend from the last points of the inner run, or from w_K if there are none.

    Args:
        descend: (the pair of losses on the window's last batches, the points, df/dl at w_K) -> the ends of the descents.
        points: their names in the memory.

    Raises:
        Unsupported: a minimum of f does not depend on the meta-parameters, outer losses are due before the window's end, or the inner
            optimiser minimises no loss (decoupled weight decay).
        Diverged: a point is not finite.
        MetabenchError: the memory is of another method or model.
    """
    refuse_update_and_start_alone(problem, "the two points differ by the inner loss alone")
    outer = refuse_earlier_outer_losses(window, "the inner minimum depends on the last alone")
    pair = Pair(problem, tree.detach(meta), window.inner[-1], outer, windows_before(state))
    trained = run(problem, begun(problem, state, meta), meta, window.inner)
    before = [remembered(state, name, state.params) or trained.params for name in points]
    ended = descend(pair, before, pair.inner_meta(trained.params))
    if not all(tree.all_finite(point) for point in ended.points):
        raise Diverged(
            f"the descent on f and F / penalty is not finite, at a penalty of {ended.multiplier:g}: their sum or difference has no minimum "
            "here, or the learning rate is too large; raise the penalty, or lower the rate"
        )
    value = outer_value(problem, trained.params, meta, outer)
    distance = tree.norm(tree.subtract(ended.points[0], trained.params)) / tree.norm(trained.params)
    return Hypergradient(
        ended.meta,
        InnerState(trained.params, trained.optimiser, counted(state, dict(zip(points, ended.points, strict=True)))),
        value,
        {"multiplier": ended.multiplier, "distance": float(distance)},
        answer=ended.points[0],
    )


def grown(penalty: float, schedule: str, windows: int) -> float:
    """Return a penalty times the factor of a schedule after some windows."""
    return penalty * float(read_schedule(schedule)(torch.tensor(float(windows), dtype=torch.float64)))
