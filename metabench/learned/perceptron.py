"""A small network that is applied to every coordinate by itself, from its features and the step to its change."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Tree

TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""Steps at which a feature of time is zero."""


@dataclass(frozen=True)
class Perceptron:
    """ReLU layers from features and the step to a direction and a magnitude: the change is direction * exp(steepness * magnitude).

    Weights: of layer i from 1 `mlp{i}.weight` [out, in] and `mlp{i}.bias`, and `mlp1.time` [out, times].
    """

    features: int
    layers: int
    hidden: int
    steepness: float

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate."""
        return 2 * self.features + 2 * self.layers * self.hidden + 6

    def draw(self, stream: torch.Generator) -> Tree:
        """Return weights from N(0, 1 / inputs of the layer), and zero biases."""

        def normal(inputs: int, outputs: int) -> torch.Tensor:
            return torch.randn((outputs, inputs), generator=stream, dtype=torch.float64) / math.sqrt(inputs)

        inputs = self.features + len(TIMES)
        first = normal(inputs, self.hidden)
        weights = {"mlp1.time": first[:, self.features :].clone()}
        sizes = [inputs, *[self.hidden] * self.layers, 2]
        for i, (size, outputs) in enumerate(itertools.pairwise(sizes), start=1):
            weights[f"mlp{i}.weight"] = first[:, : self.features].clone() if i == 1 else normal(size, outputs)
            weights[f"mlp{i}.bias"] = torch.zeros(outputs, dtype=torch.float64)
        return weights

    def change(self, features: torch.Tensor, step: torch.Tensor, meta: Tree) -> torch.Tensor:
        """Return the changes [n] of coordinates with these features [features, n] at a step, a scalar."""
        time = (step / features.new_tensor(TIMES) - 1).tanh()
        bias = torch.addmv(meta["mlp1.bias"], meta["mlp1.time"], time)
        for i in range(1, self.layers + 1):
            features = torch.addmm(bias.unsqueeze(1), meta[f"mlp{i}.weight"], features).relu()
            bias = meta[f"mlp{i + 1}.bias"]
        found: torch.Tensor = torch.addmm(bias.unsqueeze(1), meta[f"mlp{self.layers + 1}.weight"], features)
        return found[0] * (self.steepness * found[1]).exp()


NORMAL = 1e-5
"""Added to a mean square before its root divides: what is much smaller than its root is left small."""


def normalised(features: torch.Tensor) -> torch.Tensor:
    """Return the features of one tensor's coordinates [features, n], each divided by its root mean square over the tensor."""
    return features * (features.square().mean(1, keepdim=True) + NORMAL).rsqrt()
