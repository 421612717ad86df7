"""Certification problems whose learning rates change from step to step, by a schedule and by one that is learned.

A window in the middle of a run starts at a step other than 0. References write the rates anew, on numbers: a step that is miscounted, or
that starts again with each window, shows.
"""

from __future__ import annotations

import math
from typing import Any

from metabench.autodiff.optimisers import PerParameter, scheduled
from metabench.certify.problem import ADAPTIVE
from metabench.certify.tanh_networks import LearningRates, TanhNetwork
from metabench.core import MetaRole, Tree
from metabench.core.lazy import torch
from metabench.core.schedules import Cosine, WarmUp

WARM_UP, DECAY, FINAL = 6, 5, 0.2


def _factor(step: float, decay_steps: int = DECAY) -> float:
    """Return the factor of the warm-up and the cosine that follows it."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return FINAL + (1 - FINAL) * math.cos(math.pi / 2 * min((step - WARM_UP) / decay_steps, 1)) ** 2


class ScheduledRate(TanhNetwork):
    """A tanh network trained at a rate that rises for six steps, past the first window's end, and then falls by a cosine."""

    name = "scheduled_rate"
    statement = (
        "w <- w - a c(t) u,  c(t) = (t + 1) / 6 for t < 6, then 0.2 + 0.4 (1 + cos(pi min((t - 6) / T, 1))),  "
        "f and F those of tanh_network"
    )

    def __init__(self, optimiser: str = "sgd", decay_steps: int = DECAY, **settings: Any) -> None:
        self.decay_steps = decay_steps
        super().__init__(optimiser, **settings)

    def learning_rate(self) -> Any:
        """Return the scheduled rate."""
        return scheduled(super().learning_rate(), WarmUp(WARM_UP, Cosine(self.decay_steps, FINAL)))

    def rates(self, meta: Tree, params: Tree, step: float) -> dict[str, Any]:
        """Return the rate after `step` updates, for each parameter tensor."""
        return dict.fromkeys(params, super().learning_rate() * _factor(step, self.decay_steps))


class ScheduledLearningRates(LearningRates):
    """The meta-parameters are log learning rates, one per tensor, and the same schedule multiplies all of them."""

    name = "scheduled_learning_rates"
    statement = "w_i <- w_i - exp(l_i) c(t) u_i,  c as in scheduled_rate, T = 5,  f and F those of learning_rate"

    def learning_rate(self) -> Any:
        """Return the scheduled rates, each a function of its own meta-parameter, or with momentum one function of all."""
        together = super().learning_rate() if self.optimiser_name == "momentum" else PerParameter(torch.exp)
        return scheduled(together, WarmUp(WARM_UP, Cosine(DECAY, FINAL)))

    def rates(self, meta: Tree, params: Tree, step: float) -> dict[str, Any]:
        """Return the rate of each parameter tensor after `step` updates."""
        return {name: math.exp(float(meta[name])) * _factor(step) for name in params}


class LearnedSchedule(LearningRates):
    """The meta-parameters are log learning rates, one per tensor, and the length of the warm-up and the speed of the decay of all."""

    name = "learned_schedule"
    statement = (
        "w_i <- w_i - exp(l_i - t exp(d)) (1 - exp(-(t + 1) / exp(u))) u_i,  f = F = mean (v' tanh(Ux + b) - y)^2, "
        "F summed over the steps where it is due"
    )
    roles = frozenset({MetaRole.UPDATE})

    def learning_rate(self) -> Any:
        """Return the map from l and the step to the learning rates."""

        def rates(meta: Tree, step: torch.Tensor) -> Tree:
            rise = -torch.expm1(-(step + 1) / meta["warm-up"].exp())
            fall = (-step * meta["decay"].exp()).exp()
            return {name: leaf.exp() * rise * fall for name, leaf in meta.items() if name not in ("warm-up", "decay")}

        return rates

    def rates(self, meta: Tree, params: Tree, step: float) -> dict[str, Any]:
        """Return the same, written anew."""
        fallen, risen = math.exp(float(meta["decay"])) * step, (step + 1) / math.exp(float(meta["warm-up"]))
        return {name: math.exp(float(meta[name]) - fallen) * (1 - math.exp(-risen)) for name in params}

    def initial_meta(self, params: Tree) -> Tree:
        """Return l: half of the rise and a third of the fall are within two windows."""
        base = -2.0 if self.optimiser_name in ADAPTIVE else -0.6
        rates = {name: torch.tensor(base - 0.2 * place, dtype=torch.float64) for place, name in enumerate(params)}
        shape = {"warm-up": torch.tensor(1.4, dtype=torch.float64), "decay": torch.tensor(-2.5, dtype=torch.float64)}
        return rates | shape
