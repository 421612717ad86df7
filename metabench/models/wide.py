"""Networks of a given width in NTK parametrisation, and the linear model that they become in the limit.

With all weights from N(0, 1) and a layer x -> W_std / sqrt(fan-in) W x + b_std b, the tangent kernel neither vanishes nor explodes with the
width. Jacot et al. 2018; names as in Novak et al. 2020 (neural-tangents).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Tree


class _Layers(ABC):
    """What networks of both kinds share: `depth` hidden layers and a dense one, named by their numbers."""

    depth: int
    W_std: float
    b_std: float
    outputs: int | None
    standard: bool = False

    @property
    @abstractmethod
    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights, layer by layer."""

    def initial(self, stream: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights and biases from N(0, 1), drawn in float64; in the standard parametrisation scaled."""
        drawn: Tree = {}
        for i, shape in enumerate(self._shapes):
            weight = torch.randn(shape, generator=stream, dtype=torch.float64)
            drawn[f"{i}.weight"] = (self._weight_scale(weight) * weight if self.standard else weight).to(dtype)
            if self.b_std:
                bias = torch.randn(shape[0], generator=stream, dtype=torch.float64)
                drawn[f"{i}.bias"] = (self.b_std * bias if self.standard else bias).to(dtype)
        return drawn

    def _layer(self, params: Tree, i: int, values: torch.Tensor) -> torch.Tensor:
        """Return what a layer makes of values: a convolution of images, or a product."""
        weight = params[f"{i}.weight"]
        values = (1.0 if self.standard else self._weight_scale(weight)) * values
        convolves = weight.dim() == 4
        found = torch.nn.functional.conv2d(values, weight, padding=1) if convolves else values @ weight.mT
        if self.b_std:
            bias = (1.0 if self.standard else self.b_std) * params[f"{i}.bias"]
            found = found + (bias[:, None, None] if convolves else bias)
        return found

    def _last(self, params: Tree, values: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape [n] or [n, outputs], of what the hidden layers make of inputs, shape [n, units]."""
        found = self._layer(params, self.depth, values)
        return found[:, 0] if self.outputs is None else found

    def _weight_scale(self, weight: torch.Tensor) -> float:
        return self.W_std / math.prod(weight.shape[1:]) ** 0.5

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the last layer's parameters."""
        return tuple(f"{self.depth}.{kind}" for kind in (("weight", "bias") if self.b_std else ("weight",)))


@dataclass(frozen=True)
class WideMLP(_Layers):
    """An MLP with hidden layers of one width.

    Attributes:
        inputs: dimensions of an input.
        width: units of a hidden layer.
        depth: hidden layers.
        activation: applied between layers.
        W_std, b_std: of weights and biases, as above; there are no biases where b_std is 0.
        outputs: numbers per input; None: one, and no dimension for it.
        standard: whether layers are x -> W x + b, with the same weights and biases scaled: it begins as the other one and trains otherwise.
    """

    inputs: int
    width: int
    depth: int
    activation: Callable[[torch.Tensor], torch.Tensor]
    W_std: float
    b_std: float
    outputs: int | None = None
    standard: bool = False

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        sizes = [self.inputs, *[self.width] * self.depth, self.outputs or 1]
        return [(fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(sizes)]

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape [n] or [n, outputs], of inputs [n, dimensions]."""
        found = inputs
        for i in range(self.depth):
            found = self.activation(self._layer(params, i, found))
        return self._last(params, found)


@dataclass(frozen=True)
class WideConvNet(_Layers):
    """A network of 3 x 3 convolutions of one width, with stride 1 and zeros around images, and a dense layer.

    Its limit is `metabench.kernels.convolutional.ConvNet`.

    Attributes:
        image: channels, height and width in pixels of an input.
        width: channels of a hidden layer.
        depth: convolutions, each with the activation after it.
        activation: of single numbers.
        W_std, b_std: as of `WideMLP`; the fan-in of a convolution is 9 times its input channels.
        pooling: the layers, counted from 1, whose activation is followed by average pooling of 2 x 2 pixels, as `ConvNet.pooling` has them.
        gap: whether the dense layer reads the mean over pixels, the readout 'gap'; else it reads all pixels.
        outputs: numbers per input; None: one, and no dimension for it.
    """

    image: tuple[int, int, int]
    width: int
    depth: int
    activation: Callable[[torch.Tensor], torch.Tensor]
    W_std: float
    b_std: float
    pooling: Collection[int] = ()
    gap: bool = False
    outputs: int | None = None

    def __post_init__(self) -> None:
        """Raise MetabenchError where pooling does not divide the image."""
        _, height, width = self.image
        if height % 2 ** len(self.pooling) or width % 2 ** len(self.pooling):
            raise MetabenchError(
                f"pooling of 2 x 2 pixels after {len(self.pooling)} layers does not divide {height} x {width} pixels: pool after fewer"
            )

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        channels, height, width = self.image
        sizes = itertools.pairwise([channels, *[self.width] * self.depth])
        pixels = 1 if self.gap else height * width // 4 ** len(self.pooling)
        return [*((fan_out, fan_in, 3, 3) for fan_in, fan_out in sizes), (self.outputs or 1, self.width * pixels)]

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape [n] or [n, outputs], of flat images [n, channels * height * width]."""
        found = inputs.reshape(len(inputs), *self.image)
        for i in range(self.depth):
            found = self.activation(self._layer(params, i, found))
            if i + 1 in self.pooling:
                found = torch.nn.functional.avg_pool2d(found, 2)
        return self._last(params, found.mean((2, 3)) if self.gap else found.flatten(1))


@dataclass(frozen=True)
class LinearModel:
    """Outputs linear in features: what a network is in the limit, on points whose features are the rows of a factor of their kernel.

    Attributes:
        features: how many each parameter has, by its name: one for the tangent kernel of all layers, or 'body' and 'head' for that of all
            but the last and that of the last.
        outputs: numbers per point, each with weights of its own; None: one, and no dimension for it.
    """

    features: Mapping[str, int]
    outputs: int | None = None

    def initial(self, stream: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return zero weights: the limit of a network that is centred, whatever was drawn."""
        outputs = () if self.outputs is None else (self.outputs,)
        return {name: torch.zeros((count, *outputs), dtype=dtype) for name, count in self.features.items()}

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape [n] or [n, outputs], of the features of all parameters, [n, features]."""
        parts = inputs.split(list(self.features.values()), dim=1)
        first, *others = (part @ params[name] for name, part in zip(self.features, parts, strict=True))
        return sum(others, start=first)

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the last layer's parameters."""
        return ("head",)


def factor(gram: torch.Tensor) -> torch.Tensor:
    """Return features of n points, shape [n, n], whose products are a kernel [n, n]: V sqrt(L) for its eigenvectors and eigenvalues.

    Those of eigenvalues that are zero, or round to less, are zero and stay: what rounds to zero differs between machines, and the number
    of parameters, with the memory of a method, must not.
    """
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


NEAR_ZERO = 1e-14
"""Features whose squared length is below as much of the largest, times the number of points, are zero, rounded."""


def coordinates(features: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Return features of m further points, shape [m, n], from those of n points, a `factor`, and the kernel across [m, n].

    A point's features have a part in the span of those of the n points, which this is, and one orthogonal to it. Weights that begin at zero
    and move along features of the n points alone never meet the second: outputs at further points are exactly these features times them.
    """
    lengths = features.square().sum(0)
    kept = lengths > NEAR_ZERO * len(features) * lengths.max()
    # Columns of a factor are orthogonal: its pseudo-inverse is its transpose, each row divided by its squared length.
    return across @ features * torch.where(kept, 1 / lengths.clamp(min=torch.finfo(lengths.dtype).tiny), 0.0)
