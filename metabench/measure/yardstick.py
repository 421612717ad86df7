"""Whether the exact hypergradient that judges methods is right: its slopes compared with those of plain training.

That hypergradient g comes from reverse mode, like that of many methods, and comparing the two cannot reveal a shared mistake. Plain
training shares nothing with either: it uses the values of the losses, the first-order gradient of the inner loss and the optimiser's
update. Its outer objective phi is differenced along orthonormal directions u_i in the space of the n meta-parameters: u_0 is that of g,
the m others are random. With e = g - grad phi,

    <e, u_0>^2 + (n - 1)/m sum_i <e, u_i>^2

is |e|^2 on average, and |e|^2 itself where the directions are a basis. So an error in a few meta-parameters shows, too: one of
10^-3 |g| stays below TOLERANCE along three random directions with a probability of 0.1 %.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Batch, InnerState, Tree, Window

TOLERANCE = 1e-4
"""Relative disagreement above which the hypergradient is wrong. For correct ones it was at most 10^-6 over all problems and inner
optimisers of the package."""

DIRECTIONS = 3
"""Random directions."""

AGREEMENT = 1e-6
"""Relative disagreement of a slope up to which no second width is tried: computations that share nothing do not agree by accident."""

_PRECISION = TOLERANCE / 10
"""Relative precision that a slope needs to speak against a hypergradient."""

_ROUNDING = 1e-8
"""Relative rounding error at the first width. Narrow is better than accurate: phi has a kink wherever an activation of a ReLU network
switches, and over two steps or more a jump."""

_WIDTHS = (1.0, 1e-1, 1e-2, 1e1, 1e2)
"""Widths in the order in which they are tried, over the first: narrower against kinks and jumps, wider against rounding."""

_NARROWEST, _WIDEST = 1e-9, 1e-2


@dataclass(frozen=True)
class Disagreement:
    """An exact hypergradient compared with the gradient of plain training.

    Attributes:
        error: estimated norm of their difference, over the larger norm.
        precision: error of `error` that the differences may cause.
        reverse: slope of the hypergradient along the direction of the largest disagreement.
        plain: slope of plain training along the same direction.
        direction: that direction in words.
    """

    error: float
    precision: float
    reverse: float
    plain: float
    direction: str

    @property
    def wrong(self) -> bool:
        """Whether the hypergradient is wrong."""
        return self.error > TOLERANCE


class Unsettled(Exception):
    """Differences of plain training cannot decide whether the hypergradient is right; the message says why."""


def disagreement(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    hypergradient: Tree,
    stream: torch.Generator,
    *,
    steps: int | None = None,
    seconds: float = math.inf,
) -> Disagreement:
    """Compare `hypergradient` with differences of plain training in float64.

    Args:
        stream: of the random directions.
        steps: number of last inner steps that the hypergradient goes through, the state before them fixed; all unless given.
        seconds: time limit of the comparison.

    Raises:
        Unsettled: plain training takes too long or is not finite, or no difference is precise enough.
    """
    begun = time.perf_counter()
    objective = plain_objective(problem, state, meta, window, steps or len(window.inner))
    point, exact = tree.flatten(meta), tree.flatten(hypergradient)
    started = time.perf_counter()
    middle = objective(meta)
    each = time.perf_counter() - started
    size = float(exact.norm())
    if not math.isfinite(middle) or not math.isfinite(size):
        raise Unsettled("the outer objective or its hypergradient is not finite")
    directions = _directions(exact, size, stream)
    if (needed := 2 * len(directions) * each) > seconds:
        raise Unsettled(f"differences of plain training take {needed:.2g} s or more, and {seconds:.2g} s are allowed")

    # Relative to the objective where the hypergradient is zero.
    unit = size or abs(middle) or 1.0
    rounding = torch.finfo(point.dtype).eps * (abs(middle) + float(point.norm()) * size)
    search = _Search(middle, unit, rounding, until=begun + seconds - 2 * each)
    own: list[_Slope] = []
    others: list[_Slope] = []
    for place, direction in enumerate(directions):
        of_gradient = place == 0 and size > 0
        share = 1.0 if of_gradient else _share(len(point), size, len(directions) - (size > 0))
        slope = search.slope(_along(objective, meta, point, direction), float(exact @ direction), share)
        if slope is not None:
            (own if of_gradient else others).append(slope)
    if own or others:
        found = _summary(own, others, unit, _share(len(point), size, len(others)))
        # Along the hypergradient alone an error at right angles to it does not show.
        if found.wrong or others or len(point) == 1:
            return found
    raise Unsettled(
        "no difference of plain training is precise enough: there are kinks or jumps nearby, or time ran out"
    )


def plain_objective(
    problem: Problem, state: InnerState, meta: Tree, window: Window, steps: int
) -> Callable[[Tree], float]:
    """Return l -> the outer objective of the window's last `steps` inner steps by plain training; those before them are taken at `meta`."""
    before = len(window.inner) - steps
    if before:
        reached = _start(problem, state, meta)
        for inner in window.inner[:before]:
            reached = _step(problem, reached, meta, inner)

    def value(at: Tree) -> float:
        current, total = reached if before else _start(problem, state, at), 0.0
        for inner, outer in zip(window.inner[before:], window.outer[before:], strict=True):
            current = _step(problem, current, at, inner)
            if outer is not None:
                with torch.no_grad():
                    total += float(problem.outer_loss(current.params, at, outer))
        return total

    return value


def _start(problem: Problem, state: InnerState, meta: Tree) -> InnerState:
    with torch.no_grad():
        return InnerState(problem.start(state.params, meta), state.optimiser)


def _step(problem: Problem, state: InnerState, meta: Tree, batch: Batch) -> InnerState:
    params = {name: leaf.detach().requires_grad_() for name, leaf in state.params.items()}
    with torch.enable_grad():
        loss = problem.inner_loss(params, meta, batch)
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    with torch.no_grad():
        gradient = {
            name: torch.zeros_like(leaf) if slope is None else slope
            for (name, leaf), slope in zip(params.items(), found, strict=True)
        }
        plain = {name: leaf.detach() for name, leaf in params.items()}
        return InnerState(*problem.optimiser.update(gradient, plain, state.optimiser, meta))


def _directions(exact: torch.Tensor, size: float, stream: torch.Generator) -> list[torch.Tensor]:
    """Return orthonormal directions: that of `exact` first, unless it is zero, then random ones."""
    first = [exact / size] if size > 0 else []
    count = min(DIRECTIONS, len(exact) - len(first))
    drawn = torch.randn(len(exact), count, generator=stream, dtype=exact.dtype, device=stream.device).to(exact.device)
    columns = torch.cat([*(one[:, None] for one in first), drawn], dim=1)
    return [*first, *torch.linalg.qr(columns).Q.T[len(first) :]]


def _along(
    objective: Callable[[Tree], float], meta: Tree, point: torch.Tensor, direction: torch.Tensor
) -> Callable[[float], float]:
    return lambda by: objective(tree.unflatten(point + by * direction, meta))


def _share(dimension: int, size: float, random: int) -> float:
    """Return what the error along one of `random` directions stands for in the whole space, that of the hypergradient left out."""
    return math.sqrt((dimension - (size > 0)) / random) if random else 0.0


@dataclass(frozen=True)
class _Slope:
    """The slope along a direction by reverse mode, by plain training, and the error that the latter may have."""

    reverse: float
    plain: float
    spread: float


@dataclass(frozen=True)
class _Search:
    """How slopes of plain training are found. middle: phi at l. rounding: error of phi. until: when to stop, on the clock."""

    middle: float
    unit: float
    rounding: float
    until: float

    def slope(self, function: Callable[[float], float], reverse: float, share: float) -> _Slope | None:
        """Return the slope at 0 of `function`; None where its differences do not settle.

        It settles at the first width where it agrees with `reverse`, or where two widths are precise and agree with each other.
        """
        first = min(max(self.rounding * share / (_ROUNDING * self.unit), _NARROWEST), _WIDEST)
        seen: _Slope | None = None
        for factor in _WIDTHS:
            width = first * factor
            if width > _WIDEST:
                continue
            if time.perf_counter() > self.until:
                break
            right, left = function(width), function(-width)
            wide = (right - left) / (2 * width)
            allowed = max(self.unit / share, abs(wide))
            if abs(wide - reverse) <= AGREEMENT * allowed:
                return _Slope(reverse, wide, self.rounding / width)
            near_right, near_left = function(width / 2), function(-width / 2)
            narrow = (near_right - near_left) / width
            # Half the difference of the two one-sided slopes, extrapolated: at a kink there is no slope to compare with.
            bend = (right - 2 * self.middle + left) / (2 * width)
            near_bend = (near_right - 2 * self.middle + near_left) / width
            spread = max(abs(narrow - wide), abs(2 * near_bend - bend), self.rounding / width)
            found = _Slope(reverse, (4 * narrow - wide) / 3, spread)
            if spread <= _PRECISION * allowed:
                if seen is not None and abs(found.plain - seen.plain) <= 2 * _PRECISION * allowed:
                    return min(seen, found, key=lambda one: one.spread)
                seen = found
        return None


def _summary(own: list[_Slope], others: list[_Slope], unit: float, share: float) -> Disagreement:
    weighed = [*((slope, 1.0) for slope in own), *((slope, share) for slope in others)]
    size = max(unit, math.hypot(*(weight * slope.plain for slope, weight in weighed)))
    worst, _ = max(weighed, key=lambda pair: pair[1] * abs(pair[0].reverse - pair[0].plain))
    return Disagreement(
        error=math.hypot(*(weight * (slope.reverse - slope.plain) for slope, weight in weighed)) / size,
        precision=math.hypot(*(weight * slope.spread for slope, weight in weighed)) / size,
        reverse=worst.reverse,
        plain=worst.plain,
        direction="along the hypergradient" if any(worst is one for one in own) else "along a random direction",
    )
