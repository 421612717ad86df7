"""RNNprop: the LSTM of Andrychowicz et al. on what RMSprop and Adam step by, with a bounded step. Lv, Jiang & Li 2017.

It is theirs without the layer between the two inputs and the LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metabench.autodiff.optimisers import STEP_COUNT, counted, zero_count
from metabench.core import option, tree
from metabench.core.lazy import torch
from metabench.core.types import OptimiserState, Tree
from metabench.learned.coordinates import joined, parted
from metabench.learned.declared import LearnedOptimiser
from metabench.learned.recurrent import Recurrent


@dataclass(frozen=True)
class Options:
    """Options of `rnnprop`."""

    layers: int = option(2, minimum=1, help="layers of LSTM cells")
    hidden: int = option(20, minimum=1, help="units of a layer")
    decay: float = option(0.95, minimum=0, maximum=0.999999, help="of the means of the gradient and of its square")
    output: float = option(0.1, above=0, help="largest step of a coordinate")


EPS = 1e-8


@dataclass(frozen=True)
class RNNprop:
    """w <- w + output * tanh m(g / sqrt(v), mu / sqrt(v)), with mu and v the unbiased means of g and of g^2."""

    options: Options

    leafwise: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = True
    translates: ClassVar[bool] = True

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate."""
        return self._network.numbers_per_coordinate + 10

    @property
    def _network(self) -> Recurrent:
        return Recurrent(2, self.options.layers, self.options.hidden)

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the network's initial weights."""
        return self._network.draw(stream)

    def init(self, params: Tree) -> OptimiserState:
        """Return zero means, a step count of zero and zero states of the LSTM."""
        means = {"first": tree.zeros_like(params), "second": tree.zeros_like(params)}
        return {**means, STEP_COUNT: zero_count(params), **self._network.init(params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        decay, flat = self.options.decay, joined(gradient)
        step, after = counted(state)
        assert step is not None
        first = torch.lerp(joined(state["first"]), flat, 1 - decay)
        second = torch.lerp(joined(state["second"]), flat.square(), 1 - decay)
        unbiased = 1 - decay ** (step + 1)
        scale = 1 / ((second / unbiased + EPS**2).sqrt() + EPS)
        inputs = torch.cat([flat * scale, first * scale / unbiased])
        change, states = self._network.step(inputs, state, meta, params)
        moved = parted(self.options.output * change.tanh(), params)
        means = {"first": parted(first, params), "second": parted(second, params)}
        return {name: leaf + moved[name] for name, leaf in params.items()}, {**means, **after, **states}


RNNPROP = LearnedOptimiser(
    "rnnprop",
    "the LSTM on the inputs of RMSprop and Adam, with a bounded step",
    RNNprop,
    lambda options, stream: RNNprop(options).draw(stream),
    "lv2017learning",
    Options,
    1,
)
