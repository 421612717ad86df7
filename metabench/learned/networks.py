"""The small networks on which optimisers are learned: convolutions, then dense layers, all weights drawn alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Tree

KERNEL = 5
SPREAD = 0.01
EPSILON = 1e-5


@dataclass(frozen=True)
class SmallNetwork:
    """5 x 5 convolutions with 2 x 2 pooling by maxima, dense layers, and a linear one to the scores.

    Attributes:
        shape: of an input, [channels, height, width].
        classes: number of scores.
        channels: of the convolutions; empty for an MLP.
        hidden: units of the dense layers.
        activation: after every layer but the last, 'sigmoid' or 'relu'.
        normalised: whether these layers are normalised before it, by the statistics of the batch; their bias is added after that.
    """

    shape: tuple[int, int, int]
    classes: int
    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    activation: str = "sigmoid"
    normalised: bool = False

    def initial(self, stream: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights and biases from N(0, 0.01^2), drawn in float64."""
        return {
            name: (SPREAD * torch.randn(shape, generator=stream, dtype=torch.float64)).to(dtype)
            for name, shape in self._shapes()
        }

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        fan_in, height, width = self.shape
        for i, channels in enumerate(self.channels):
            yield f"conv{i}.weight", (channels, fan_in, KERNEL, KERNEL)
            yield f"conv{i}.bias", (channels,)
            fan_in, height, width = channels, math.ceil(height / 2), math.ceil(width / 2)
        fan_in *= height * width
        for i, units in enumerate((*self.hidden, self.classes)):
            yield f"dense{i}.weight", (units, fan_in)
            yield f"dense{i}.bias", (units,)
            fan_in = units

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores [n, classes] of inputs [n, channels, height, width]."""
        found = inputs
        for i in range(len(self.channels)):
            found = torch.nn.functional.conv2d(
                found, params[f"conv{i}.weight"], self._bias(params, f"conv{i}"), padding=2
            )
            found = self._activated(found, params[f"conv{i}.bias"][:, None, None], (0, 2, 3))
            found = torch.nn.functional.max_pool2d(found, 2, ceil_mode=True)
        found = found.flatten(1)
        for i in range(len(self.hidden)):
            found = torch.nn.functional.linear(found, params[f"dense{i}.weight"], self._bias(params, f"dense{i}"))
            found = self._activated(found, params[f"dense{i}.bias"], (0,))
        last = f"dense{len(self.hidden)}"
        return torch.nn.functional.linear(found, params[f"{last}.weight"], params[f"{last}.bias"])

    def _bias(self, params: Tree, layer: str) -> torch.Tensor | None:
        return None if self.normalised else params[f"{layer}.bias"]

    def _activated(self, found: torch.Tensor, bias: torch.Tensor, over: tuple[int, ...]) -> torch.Tensor:
        if self.normalised:
            centred = found - found.mean(over, keepdim=True)
            found = centred * (centred.square().mean(over, keepdim=True) + EPSILON).rsqrt() + bias
        return found.sigmoid() if self.activation == "sigmoid" else found.relu()
