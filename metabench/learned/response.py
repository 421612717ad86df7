"""What an optimiser does: the steps that it takes at gradients that are given to it, on no task at all."""

from __future__ import annotations

from collections.abc import Mapping

from metabench.core.curves import Curve
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import Tree
from metabench.learned.declared import Chosen
from metabench.learned.names import AT_FIRST, PERSISTENT, on_trial

CONSTANT = 0.1
"""The gradient that goes on and on."""

_SIZES = [10 ** (place / 5) for place in range(-20, 6)]
_STEPS = 50


def responses(chosen: Mapping[str, Chosen], meta: Tree) -> dict[str, Curve]:
    """Return, for each group of parameters, the first step against the gradient, and the steps at a gradient that stays `CONSTANT`.

    A step is w_0 - w_1 of a parameter with one element: positive where it goes down the gradient.
    """
    found = {}
    for group, one in chosen.items():
        optimiser, prefix = one.make(), f"{group}." * bool(group)
        own = {name.removeprefix(prefix): leaf for name, leaf in meta.items() if name.startswith(prefix)}
        first = [_steps(optimiser, own, size, 1)[0] for size in _SIZES]
        found[on_trial(group, AT_FIRST)] = Curve(_SIZES, first, along="gradient", log_x=True, log_y=True)
        later = _steps(optimiser, own, CONSTANT, _STEPS)
        found[on_trial(group, PERSISTENT)] = Curve(range(1, _STEPS + 1), later, log_y=True)
    return found


def _steps(optimiser: InnerOptimiser, meta: Tree, gradient: float, count: int) -> list[float]:
    """Return the steps that follow one another at a gradient that does not change."""
    like = next(iter(meta.values()))
    params = {"w": like.new_zeros(1)}
    state, given = optimiser.init(params), {"w": like.new_full((1,), gradient)}
    found = []
    with torch.no_grad():
        for _ in range(count):
            moved, state = optimiser.update(given, params, state, meta)
            found.append(float(params["w"] - moved["w"]))
            params = moved
    return found
