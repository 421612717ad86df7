"""Which states of an inner run are kept for the backward pass, and which are recomputed: time against memory.

A backward sweep needs the states of a run from the last to the first. Whenever it needs state `last` and holds none later than `first`,
the steps between are run, again or for the first time, and the schedule names the states to keep on the way. State 0, from which the run
starts, is always held; a state that has been used is freed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int, int, int], Collection[int]]
"""(first, last, held) -> those of the states first + 1, ..., last that are kept; `held` states besides state 0 are kept already."""


def every_state(first: int, last: int, held: int) -> Collection[int]:
    """Keep all states: no step is recomputed."""
    del held
    return range(first + 1, last + 1)


def spaced(spacing: int) -> Schedule:
    """Return the schedule that keeps every `spacing`-th state, and all states between two of them once the sweep comes there."""

    def keep(first: int, last: int, held: int) -> Collection[int]:
        within = last - first < spacing
        return every_state(first, last, held) if within else range(first + spacing, last + 1, spacing)

    return keep


def square_root(steps: int) -> Schedule:
    """Return the schedule that keeps at most about 2 sqrt(K) states and runs no step more than twice. Chen et al. 2016."""
    return spaced(max(1, math.isqrt(steps - 1) + 1))


def binomial(checkpoints: int) -> Schedule:
    """Return the schedule that keeps at most `checkpoints` states besides state 0 and recomputes the fewest steps. Griewank & Walther 2000.

    With s = checkpoints + 1 states held, state 0 among them, and beta(s, r-1) < K <= beta(s, r) = binom(s + r, s), the first pass and all
    reruns together are r K - beta(s+1, r-1) steps, and no schedule takes fewer (proposition 1 there). The state that the sweep works on,
    which moves between the kept ones, is not counted. `checkpoints` may be 0: then every state is recomputed from the start.
    """

    def keep(first: int, last: int, held: int) -> Collection[int]:
        # A run to state `last` opens the reversal of the steps first, ..., last: each kept state leaves a shorter one behind it, with a
        # checkpoint less, and what lies before it for later.
        kept, steps = [], last + 1 - first
        for free in range(checkpoints - held, 0, -1):
            if steps == 1:
                break
            stride = _stride(steps, free)
            kept.append(last + 1 - steps + stride)
            steps -= stride
        return kept

    return keep


def _stride(steps: int, free: int) -> int:
    """Return the distance to the next kept state, where `free` more can be kept in the reversal of `steps` steps.

    With s = free + 1 every stride m is optimal for which beta(s, r-2) <= m <= beta(s, r-1) and beta(s-1, r-1) <= K - m <= beta(s-1, r).
    This is the shortest: states are kept as late as possible, so fewer are recomputed before the first is pulled back.
    """
    held = free + 1
    repeats = _repeats(steps, held)
    return max(1, _reach(held, repeats - 2), steps - _reach(held - 1, repeats))


def _repeats(steps: int, held: int) -> int:
    """Return how often a step is run at most: the least r with steps <= beta(held, r)."""
    repeats = 0
    while _reach(held, repeats) < steps:
        repeats += 1
    return repeats


def _reach(held: int, repeats: int) -> int:
    """Return beta(s, r) = binom(s + r, s), the most steps that can be reversed with s states held if none is run more than r times."""
    return math.comb(held + repeats, held) if repeats >= 0 else 0
