"""Reverse mode over one step at a time, each recorded again in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.unrolled.checkpoint_schedules import Schedule, binomial, every_state, square_root
from metabench.autodiff.unrolled.sweep import recomputed_step, sweep_back
from metabench.core import Cost, Hypergradient, InnerState, Problem, Target, Tree, Window, method, option
from metabench.core.lazy import torch


@dataclass(frozen=True)
class Options:
    """Options of `unrolled_remat`."""

    schedule: str = option(
        "every",
        choices=("every", "sqrt", "binomial"),
        help="states kept: of every step, of every sqrt(K)-th step, or `checkpoints` of them, placed to recompute the fewest steps",
    )
    checkpoints: int = option(4, minimum=0, help="most states kept besides the first; read by `binomial` alone")


@method(
    title="unrolled reverse mode with rematerialised steps",
    order=30,
    target=Target.UNROLLED,
    exact=True,
    cost=Cost(
        gradients="2 K, or at most 3 K with sqrt, or at most (r + 1) K with binomial, binom(checkpoints + 1 + r, r) >= K",
        hvps="K",
        memory="O(K |w| + |activations|), or sqrt(K) or checkpoints for K",
        affine_from=lambda options: 2 if options.schedule == "every" else None,
    ),
    citation="chen2016training griewank2000revolve",
    options=Options,
    variants=tuple({"schedule": "binomial", "checkpoints": kept} for kept in (0, 1, 2)),
)
def unrolled_remat(
    problem: Problem, state: InnerState, meta: Tree, window: Window, options: Options, generator: torch.Generator
) -> Hypergradient:
    """Return dF(w_K(l), l)/dl, with the graph of one step alive at a time. Chen et al. 2016, section 4, with steps for layers.

    The binomial schedule is that of Griewank & Walther 2000: with the same number of states, none recomputes fewer steps.
    """
    del generator
    return sweep_back(problem, state, meta, window, recomputed_step, _schedule(options, len(window.inner)))


def _schedule(options: Options, steps: int) -> Schedule:
    schedules = {"every": every_state, "sqrt": square_root(steps), "binomial": binomial(options.checkpoints)}
    return schedules[options.schedule]
