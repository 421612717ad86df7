"""Small convolutional networks without running statistics."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.named import NamedClassifier

STAGES = {"conv4": (4, 8), "conv8": (8, 16), "conv16": (16, 32), "conv32": (32, 64)}
"""Channels of the stages by name; each stage is a 3x3 convolution, ReLU and a 2x2 average pooling."""


@dataclass(frozen=True)
class ConvNet:
    """Stages of convolution, ReLU and pooling, then one linear layer.

    Attributes:
        channels: of the input and of every stage.
        side: height and width of the input, in pixels.
        classes: number of class scores.
    """

    channels: tuple[int, ...]
    side: int
    classes: int

    @classmethod
    def of(cls, stages: tuple[int, ...], input_shape: tuple[int, ...], classes: int) -> ConvNet:
        """Return the network with these stages for square images of shape [channels, side, side]."""
        return cls((input_shape[0], *stages), input_shape[-1], classes)

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters drawn as He et al. 2015; biases zero. Always drawn in float64, then rounded: the same in every dtype."""
        params: Tree = {}
        for i, (fan_in, fan_out) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            kernel = torch.randn(fan_out, fan_in, 3, 3, generator=generator, dtype=torch.float64)
            params[f"stage{i}.weight"] = (kernel * math.sqrt(2.0 / (9 * fan_in))).to(dtype)
            params[f"stage{i}.bias"] = torch.zeros(fan_out, dtype=dtype)
        side = self.side
        for _ in self.channels[1:]:
            side //= 2
        features = self.channels[-1] * side * side
        weight = torch.randn(self.classes, features, generator=generator, dtype=torch.float64) / math.sqrt(features)
        params["head.weight"] = weight.to(dtype)
        params["head.bias"] = torch.zeros(self.classes, dtype=dtype)
        return params

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores, shape [n, classes], of images of shape [n, channels, side, side]."""
        hidden = inputs
        for i in range(len(self.channels) - 1):
            hidden = torch.nn.functional.conv2d(hidden, params[f"stage{i}.weight"], params[f"stage{i}.bias"], padding=1)
            hidden = torch.nn.functional.avg_pool2d(hidden.relu(), 2)
        return torch.nn.functional.linear(hidden.flatten(1), params["head.weight"], params["head.bias"])


CONVNETS = tuple(
    NamedClassifier(
        name,
        "convolutional network, stages of " + ", ".join(map(str, stages)) + " channels",
        "convolutional network",
        functools.partial(ConvNet.of, stages),
        10 + order,
    )
    for order, (name, stages) in enumerate(STAGES.items())
)
