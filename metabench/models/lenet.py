"""LeNet-5: two convolutions with pooling by maxima and three dense layers, with ReLU. LeCun et al. 1998, as it is used today."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.named import NamedClassifier

_KERNEL = 5
_SMALL = 16
"""Below this side, the second convolution is padded as the first is: otherwise nothing would be left after it."""
_WIDTHS = {"lenet_half": 0.5, "lenet": 1, "lenetx2": 2, "lenetx4": 4}


@dataclass(frozen=True)
class LeNet:
    """5 x 5 convolutions to `channels`, the first one padded, each followed by 2 x 2 pooling, and dense layers of `units`.

    Attributes:
        shape: of an image, [channels, height, width]; images are square.
        classes: number of class scores.
        channels: after each convolution.
        units: of the hidden dense layers.
    """

    shape: tuple[int, ...]
    classes: int
    channels: tuple[int, int] = (6, 16)
    units: tuple[int, int] = (120, 84)

    @classmethod
    def of(cls, width: float, input_shape: tuple[int, ...], classes: int) -> LeNet:
        """Return the network with `width` times the channels and units."""
        first, second, third, fourth = (int(width * size) for size in (6, 16, 120, 84))
        return cls(tuple(input_shape), classes, (first, second), (third, fourth))

    @property
    def _paddings(self) -> tuple[int, int]:
        return _KERNEL // 2, _KERNEL // 2 if self.shape[-1] < _SMALL else 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name; a bias has its first dimension."""
        side, found = self.shape[-1], {}
        sizes = (self.shape[0], *self.channels)
        for i, padding in enumerate(self._paddings):
            found[f"conv{i}"] = (sizes[i + 1], sizes[i], _KERNEL, _KERNEL)
            side = (side + 2 * padding - _KERNEL + 1) // 2
        sizes = (sizes[-1] * side * side, *self.units, self.classes)
        return found | {f"dense{i}": (sizes[i + 1], sizes[i]) for i in range(len(sizes) - 1)}

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters drawn as He et al. 2015; biases zero. Always drawn in float64, then rounded: the same in every dtype."""
        params: Tree = {}
        for layer, shape in self.shapes().items():
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            params[f"{layer}.weight"] = (drawn * math.sqrt(2.0 / math.prod(shape[1:]))).to(dtype)
            params[f"{layer}.bias"] = torch.zeros(shape[0], dtype=dtype)
        return params

    def __call__(self, params: Tree, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores, shape [n, classes], of images of shape [n, channels, side, side]."""
        hidden = inputs
        for i, padding in enumerate(self._paddings):
            weight, bias = params[f"conv{i}.weight"], params[f"conv{i}.bias"]
            hidden = torch.nn.functional.conv2d(hidden, weight, bias, padding=padding).relu()
            hidden = torch.nn.functional.max_pool2d(hidden, 2)
        hidden = hidden.flatten(1)
        for i in range(3):
            hidden = torch.nn.functional.linear(hidden, params[f"dense{i}.weight"], params[f"dense{i}.bias"])
            hidden = hidden.relu() if i < 2 else hidden
        return hidden


LENETS = tuple(
    NamedClassifier(
        name,
        "LeNet-5" + ("" if width == 1 else f", {width:g} times as wide"),
        "LeNet",
        functools.partial(LeNet.of, width),
        20 + place,
    )
    for place, (name, width) in enumerate(_WIDTHS.items())
)
