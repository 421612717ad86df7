"""A network of some 200 meta-parameters for every coordinate, on means that are factored as in Adafactor. Metz et al. 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metabench.autodiff.optimisers import STEP_COUNT, counted, zero_count
from metabench.core import option
from metabench.core.lazy import torch
from metabench.core.types import OptimiserState, Tree
from metabench.learned.coordinates import parted, zeros_wide
from metabench.learned.declared import LearnedOptimiser
from metabench.learned.perceptron import Perceptron, normalised

FORGOTTEN = {"momenta": (0.1, 0.01, 0.001), "squares": (0.001,), "factors": (0.1, 0.01, 0.001)}
"""What every step forgets of the means of the gradient, of its square, and of its square over rows and columns, before learning."""
EPS = 1e-6
FEATURES = 28


@dataclass(frozen=True)
class Options:
    """Options of `small_mlp`."""

    layers: int = option(2, minimum=1, help="hidden layers")
    hidden: int = option(4, minimum=1, help="units of a layer")
    output: float = option(0.01, above=0, help="factor on the change")
    steepness: float = option(0.1, above=0, help="factor on the magnitude before its exponential")


@dataclass(frozen=True)
class SmallMLP:
    """w <- w + output * direction * exp(steepness * magnitude), both from a small network for every coordinate.

    A tensor counts as a matrix: its first dimension by the others. Meta-parameters are the network's, and `log_forgotten_...` of the means.
    """

    options: Options

    leafwise: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = False
    translates: ClassVar[bool] = False

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate."""
        return self._network.numbers_per_coordinate + 2 * FEATURES

    @property
    def _network(self) -> Perceptron:
        return Perceptron(FEATURES, self.options.layers, self.options.hidden, self.options.steepness)

    def draw(self, stream: torch.Generator) -> Tree:
        """Return the network's initial weights and the logarithms of what is forgotten."""
        forgotten = {
            f"log_forgotten_{name}": torch.tensor(of, dtype=torch.float64).log() for name, of in FORGOTTEN.items()
        }
        return {**self._network.draw(stream), **forgotten}

    def init(self, params: Tree) -> OptimiserState:
        """Return zero means and a step count of zero: `rows` [3, rows] and `columns` [3, columns] of a matrix."""
        state: OptimiserState = {"momenta": zeros_wide(params, 3), "squares": {}, "rows": {}, "columns": {}}
        for name, leaf in params.items():
            rows, columns = _matrix(leaf).shape
            state["squares"][name] = torch.zeros_like(leaf)
            state["rows"][name] = leaf.new_zeros((3, rows))
            state["columns"][name] = leaf.new_zeros((3, columns))
        return {**state, STEP_COUNT: zero_count(params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        step, after = counted(state)
        assert step is not None
        forgotten = {name: meta[f"log_forgotten_{name}"].exp().unsqueeze(1) for name in FORGOTTEN}
        slots: OptimiserState = {slot: {} for slot in state if slot != STEP_COUNT}
        features = []
        for name, leaf in params.items():
            means = {slot: state[slot][name] for slot in slots}
            seen, means = _features(gradient[name], leaf, means, forgotten)
            features.append(normalised(seen))
            for slot, mean in means.items():
                slots[slot][name] = mean
        change = self._network.change(torch.cat(features, dim=1), step, meta)
        moved = parted(self.options.output * change, params)
        return {name: leaf + moved[name] for name, leaf in params.items()}, {**slots, **after}


def _matrix(leaf: torch.Tensor) -> torch.Tensor:
    """Return a tensor as a matrix; one of one dimension as a column, of which the factors are the elements themselves."""
    return leaf.reshape(leaf.shape[0], -1) if leaf.dim() > 1 and leaf.numel() else leaf.reshape(-1, 1)


def _features(gradient: torch.Tensor, leaf: torch.Tensor, means: Tree, forgotten: Tree) -> tuple[torch.Tensor, Tree]:
    """Return the features of a tensor's coordinates [28, n], and its next means."""
    if not leaf.numel():
        return leaf.new_zeros((FEATURES, 0)), means
    matrix = _matrix(gradient)
    squares = matrix.square()
    flat = gradient.reshape(1, -1)
    momenta = torch.lerp(means["momenta"].movedim(-1, 0).reshape(3, -1), flat, forgotten["momenta"])
    square = torch.lerp(means["squares"].reshape(1, -1), squares.reshape(1, -1), forgotten["squares"])
    rows = torch.lerp(means["rows"], squares.mean(1), forgotten["factors"])
    columns = torch.lerp(means["columns"], squares.mean(0), forgotten["factors"])
    factored = rows[:, :, None] * columns[:, None] / (rows.mean(1)[:, None, None] + EPS)

    def spread(factor: torch.Tensor) -> torch.Tensor:
        return factor.expand(3, *matrix.shape).reshape(3, -1)

    root = (square + EPS).rsqrt()
    factor = (factored + EPS).rsqrt().reshape(3, -1)
    row, column = spread(rows[:, :, None]), spread(columns[:, None])
    parts = [flat, leaf.reshape(1, -1), momenta, square, momenta * root, root, flat * factor]
    parts += [row, column, (row + EPS).rsqrt(), (column + EPS).rsqrt(), momenta * factor]
    after = {"momenta": momenta.reshape(3, *leaf.shape).movedim(0, -1), "squares": square.reshape(leaf.shape)}
    return torch.cat(parts), {**after, "rows": rows, "columns": columns}


SMALL_MLP = LearnedOptimiser(
    "small_mlp",
    "a network of some 200 meta-parameters, on factored means",
    SmallMLP,
    lambda options, stream: SmallMLP(options).draw(stream),
    "metz2022practical",
    Options,
    3,
)
