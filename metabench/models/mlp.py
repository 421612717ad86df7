"""Multilayer perceptrons (MLPs) with ReLU."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.named import NamedClassifier

HIDDEN = {"mlp64": (64,), "mlp256": (256,), "mlp1024": (1024,), "mlp512x3": (512, 512, 512)}
"""Widths of the hidden layers by name."""


@dataclass(frozen=True)
class MLP:
    """An MLP from flattened inputs to class scores.

    Attributes:
        widths: of the input, the hidden layers and the output.
    """

    widths: tuple[int, ...]

    @classmethod
    def of(cls, hidden: tuple[int, ...], input_shape: tuple[int, ...], classes: int) -> MLP:
        """Return the network with these hidden layers."""
        return cls((math.prod(input_shape), *hidden, classes))

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters drawn as He et al. 2015; biases zero. Always drawn in float64, then rounded: the same in every dtype."""
        params: Tree = {}
        for i, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            weight = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64) * math.sqrt(2.0 / fan_in)
            params[f"layer{i}.weight"] = weight.to(dtype)
            params[f"layer{i}.bias"] = torch.zeros(fan_out, dtype=dtype)
        return params

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores, shape [n, classes], of inputs of shape [n, ...]."""
        hidden = inputs.flatten(1)
        layers = len(self.widths) - 1
        for i in range(layers):
            hidden = torch.nn.functional.linear(hidden, params[f"layer{i}.weight"], params[f"layer{i}.bias"])
            if i < layers - 1:
                hidden = hidden.relu()
        return hidden


MLPS = tuple(
    NamedClassifier(
        name, "MLP, hidden layers of " + ", ".join(map(str, hidden)), "MLP", functools.partial(MLP.of, hidden), order
    )
    for order, (name, hidden) in enumerate(HIDDEN.items())
)
