"""MLPs of a given width in NTK parametrisation, and the linear model that they become in the limit.

With all weights from N(0, 1) and a layer x -> W_std / sqrt(fan-in) W x + b_std b, the tangent kernel neither vanishes nor explodes with the
width. Jacot et al. 2018; names as in Novak et al. 2020 (neural-tangents).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
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
    """

    inputs: int
    width: int
    depth: int
    activation: Callable[[torch.Tensor], torch.Tensor]
    W_std: float
    b_std: float
    outputs: int | None = None

    def initial(self, stream: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights and biases from N(0, 1), drawn in float64."""
        sizes = [self.inputs, *[self.width] * self.depth, self.outputs or 1]
        drawn: Tree = {}
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            drawn[f"{i}.weight"] = torch.randn((fan_out, fan_in), generator=stream, dtype=torch.float64).to(dtype)
            if self.b_std:
                drawn[f"{i}.bias"] = torch.randn(fan_out, generator=stream, dtype=torch.float64).to(dtype)
        return drawn

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape [n] or [n, outputs], of inputs [n, dimensions]."""
        found = inputs
        for i in range(self.depth + 1):
            if i:
                found = self.activation(found)
            found = self.W_std / found.shape[-1] ** 0.5 * found @ params[f"{i}.weight"].mT
            if self.b_std:
                found = found + self.b_std * params[f"{i}.bias"]
        return found[:, 0] if self.outputs is None else found


@dataclass(frozen=True)
class LinearModel:
    """Outputs linear in features: what a network is in the limit, on points whose features are the rows of a factor of their kernel.

    Attributes:
        features: of a point.
        outputs: numbers per point, each with weights of its own; None: one, and no dimension for it.
    """

    features: int
    outputs: int | None = None

    def initial(self, stream: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return zero weights: the limit of a network that is centred, whatever was drawn."""
        shape = (self.features,) if self.outputs is None else (self.features, self.outputs)
        return {"weight": torch.zeros(shape, dtype=dtype)}

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs, shape [n] or [n, outputs], of features [n, features]."""
        return inputs @ params["weight"]


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
