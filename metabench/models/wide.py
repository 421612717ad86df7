"""MLPs of a given width in NTK parametrisation, and the linear model that they become in the limit.

With all weights from N(0, 1) and a layer x -> W_std / sqrt(fan-in) W x + b_std b, the tangent kernel neither vanishes nor explodes with the
width. Jacot et al. 2018; names as in Novak et al. 2020 (neural-tangents).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Tree


@dataclass(frozen=True)
class WideMLP:
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

    def initial(self, stream: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights and biases from N(0, 1), drawn in float64; in the standard parametrisation scaled."""
        sizes = [self.inputs, *[self.width] * self.depth, self.outputs or 1]
        drawn: Tree = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            weight = torch.randn((fan_out, fan_in), generator=stream, dtype=torch.float64)
            drawn[f"{i}.weight"] = (self._weight_scale(fan_in) * weight if self.standard else weight).to(dtype)
            if self.b_std:
                bias = torch.randn(fan_out, generator=stream, dtype=torch.float64)
                drawn[f"{i}.bias"] = (self.b_std * bias if self.standard else bias).to(dtype)
        return drawn

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape [n] or [n, outputs], of inputs [n, dimensions]."""
        found = inputs
        for i in range(self.depth + 1):
            if i:
                found = self.activation(found)
            scale = 1.0 if self.standard else self._weight_scale(found.shape[-1])
            found = scale * found @ params[f"{i}.weight"].mT
            if self.b_std:
                found = found + (1.0 if self.standard else self.b_std) * params[f"{i}.bias"]
        return found[:, 0] if self.outputs is None else found

    def _weight_scale(self, fan_in: int) -> float:
        return self.W_std / fan_in**0.5

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the last layer's parameters."""
        return tuple(f"{self.depth}.{kind}" for kind in (("weight", "bias") if self.b_std else ("weight",)))


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
