"""The learned optimiser of Andrychowicz et al. 2016: an LSTM for every coordinate, with the weights of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from metabench.core import option
from metabench.core.lazy import torch
from metabench.core.types import OptimiserState, Tree
from metabench.learned.coordinates import joined, parted
from metabench.learned.declared import LearnedOptimiser
from metabench.learned.recurrent import Recurrent


@dataclass(frozen=True)
class Options:
    """Options of `lstm`."""

    layers: int = option(2, minimum=1, help="layers of LSTM cells")
    hidden: int = option(20, minimum=1, help="units of a layer")
    input: str = option("raw", choices=("raw", "log"), help="the gradient times `gain`, or its logarithm and sign")
    gain: float = option(0.1, above=0, help="factor on the gradient")
    p: float = option(10.0, above=0, help="of the logarithmic input: a gradient below exp(-p) is small")
    output: float = option(0.1, above=0, help="factor on the output")


@dataclass(frozen=True)
class LSTM:
    """w <- w + output * m(gain * g), m an LSTM with a state for every coordinate."""

    options: Options

    leafwise: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = True
    translates: ClassVar[bool] = True

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate."""
        return self._network.numbers_per_coordinate

    @property
    def _network(self) -> Recurrent:
        options = self.options
        return Recurrent(1 if options.input == "raw" else 2, options.layers, options.hidden)

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the network's initial weights."""
        return self._network.draw(stream)

    def init(self, params: Tree) -> OptimiserState:
        """Return zero states of the LSTM."""
        return self._network.init(params)

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and states of the LSTM."""
        options = self.options
        flat = options.gain * joined(gradient)
        inputs = flat if options.input == "raw" else log_and_sign(flat, options.p)
        change, after = self._network.step(inputs, state, meta, params)
        moved = parted(options.output * change, params)
        return {name: leaf + moved[name] for name, leaf in params.items()}, after


def log_and_sign(values: torch.Tensor, p: float) -> torch.Tensor:
    """Return (log|x| / p, sign x) where |x| >= exp(-p), otherwise (-1, exp(p) x), shape [2, n], for x [1, n].

    Andrychowicz et al. 2016, appendix A. The derivatives are finite everywhere: the logarithm is never taken of less than exp(-p).
    """
    return torch.cat([values.abs().clamp(min=math.exp(-p)).log() / p, (math.exp(p) * values).clamp(-1, 1)])


LSTM_OPTIMISER = LearnedOptimiser(
    "lstm",
    "an LSTM for every coordinate",
    LSTM,
    lambda options, stream: LSTM(options).draw(stream),
    "andrychowicz2016learning",
    Options,
    0,
)
