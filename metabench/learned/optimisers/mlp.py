"""A network for every coordinate, on the gradient, the parameter and moving means of several lengths. Metz et al. 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metabench.autodiff.optimisers import STEP_COUNT, counted, zero_count
from metabench.core import option
from metabench.core.lazy import torch
from metabench.core.types import OptimiserState, Tree
from metabench.learned.coordinates import counts, joined, joined_wide, parted, parted_wide, zeros_wide
from metabench.learned.declared import LearnedOptimiser
from metabench.learned.perceptron import Perceptron, normalised

DECAYS = (0.9, 0.99, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class Options:
    """Options of `mlp`."""

    layers: int = option(2, minimum=1, help="hidden layers")
    hidden: int = option(32, minimum=1, help="units of a layer")
    output: float = option(0.01, above=0, help="factor on the change")
    steepness: float = option(0.1, above=0, help="factor on the magnitude before its exponential")


@dataclass(frozen=True)
class MLP:
    """w <- w + output * direction * exp(steepness * magnitude), both from a network for every coordinate.

    Its features are the gradient, the parameter, and means of the gradient, each over its root mean square in the tensor; the means over
    roots of the means of squares, without bias; and the step.
    """

    options: Options

    leafwise: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = False
    translates: ClassVar[bool] = False

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate."""
        return self._network.numbers_per_coordinate + 6 * len(DECAYS)

    @property
    def _network(self) -> Perceptron:
        options = self.options
        return Perceptron(2 + 2 * len(DECAYS), options.layers, options.hidden, options.steepness)

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the network's initial weights."""
        return self._network.draw(stream)

    def init(self, params: Tree) -> OptimiserState:
        """Return zero means, with leaves of the parameter's shape followed by one for every decay, and a step count of zero."""
        first, second = (zeros_wide(params, len(DECAYS)) for _ in range(2))
        return {"first": first, "second": second, STEP_COUNT: zero_count(params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        step, after = counted(state)
        assert step is not None
        flat = joined(gradient)
        decays = flat.new_tensor(DECAYS).unsqueeze(1)
        first = torch.lerp(flat, joined_wide(state["first"]), decays)
        second = torch.lerp(flat.square(), joined_wide(state["second"]), decays)
        unbiased = 1 - decays ** (step + 1)
        ratios = first / unbiased / ((second / unbiased + EPS**2).sqrt() + EPS)
        pieces = torch.cat([flat, joined(params), first]).split(counts(params), dim=1)
        features = torch.cat([torch.cat([normalised(piece) for piece in pieces], dim=1), ratios])
        change = self.options.output * self._network.change(features, step, meta)
        moved = parted(change, params)
        means = {"first": parted_wide(first, params), "second": parted_wide(second, params)}
        return {name: leaf + moved[name] for name, leaf in params.items()}, {**means, **after}


MLP_OPTIMISER = LearnedOptimiser(
    "mlp",
    "a network for every coordinate on normalised gradients and means",
    MLP,
    lambda options, stream: MLP(options).draw(stream),
    "metz2019understanding",
    Options,
    2,
)
