"""A problem that chooses among its options: validation, the test and another test are each best elsewhere."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from metabench.autodiff.optimisers import SGD
from metabench.core import MetaRole, Metric, Problem, ProblemCard, Window, option
from metabench.core.curves import Curve
from metabench.core.problem import OuterOptimiser


@dataclass(frozen=True)
class Options:
    """Options of `choices`."""

    rate: float = option(0.1, above=0, maximum=100, help="what is tuned")
    power: int = option(2, minimum=1, help="what is tuned, too")
    by: str = option("score", choices=("score", "gain"), help="what decides: of the gain, higher is better")
    word: str = option("a", help="a text with a number in it")


class Choices(Problem):
    """Validation is best at rate 1, the test at rate 0.1, validation of the other test at rate 10; a rate of 100 diverges."""

    card = ProblemCard("choices", ("own",), {"one": "one"}, (Metric("score", "min"), Metric("gain", "max")), "", Options, 1, 2)
    roles = frozenset({MetaRole.INNER_LOSS})
    batch = 0

    def __init__(self, setting):
        super().__init__(setting)
        self.optimiser = SGD(0.1)
        self.outer_optimiser = OuterOptimiser("SGD", 0.1)

    def initial(self):
        return {"shift": torch.ones(1, dtype=self.setting.dtype)}

    def inner_loss(self, params, meta, batch):
        return (params["w"] - meta["shift"]).square().sum()

    def outer_loss(self, params, meta, batch):
        return params["w"].square().sum()

    def windows(self):
        begins = {"w": torch.zeros(1, dtype=self.setting.dtype)}
        for step in itertools.count():
            yield [Window.ending_in(({},), {}, begins if step == 0 else None)]

    def _off(self, best):
        options = self.setting.options
        if options.rate == 100:
            return math.nan
        return abs(math.log10(options.rate / best)) + abs(options.power - 3) + float(options.word[1:] or 0)

    def chosen_by(self, meta):
        if self.setting.options.by == "gain":
            return {"gain": -self._off(1)}
        return {"score": self._off(1), "far: score": self._off(10)}

    def evaluate(self, params, meta):
        curve = Curve([0, 1], [self.setting.options.rate, float(meta["shift"])])
        found = {"score": self._off(0.1), "gain": -self._off(0.1), "far: score": self._off(10)}
        return {**found, "far: rate": self.setting.options.rate, "far: curve": curve}
