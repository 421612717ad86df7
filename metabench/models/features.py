"""Convolutions whose features tell how alike two images are: untrained, O-Net's and VGG-16's.

All are VGG-shaped: convolutions that keep the size, each with its activation, and between blocks pooling by halves, which takes the mean
as in Gatys et al. 2016, also where the network was trained with maxima.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.randomness import generator


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution and its activation.

    Attributes:
        weight: shape [out, in, height, width].
        bias: shape [out].
        slope: of negative inputs, shape [out] (PReLU); None: ReLU.
        pool: whether the mean over 2 x 2 comes before.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    slope: torch.Tensor | None
    pool: bool

    def to(self, device: torch.device, dtype: torch.dtype) -> Layer:
        """Return the layer on a device, in a dtype."""
        slope = None if self.slope is None else self.slope.to(device, dtype)
        return Layer(self.weight.to(device, dtype), self.bias.to(device, dtype), slope, self.pool)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features [n, out, height, width] of images or features."""
        if self.pool:
            images = torch.nn.functional.avg_pool2d(images, 2)
        found = torch.nn.functional.conv2d(images, self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        if self.slope is None:
            return found.relu()
        return torch.where(found > 0, found, self.slope[:, None, None] * found)


@dataclass(frozen=True, eq=False)
class Features:
    """A feature network, a pure function of images.

    Attributes:
        layers: the first ones of the network, up to the last that is used.
        styles: numbers of the layers whose Gram matrices are a style.
        content: number of the layer whose features are a content.
        mean: of each channel of the images that the network was made for, with values in [0, 1].
        deviation: the same.
    """

    layers: Sequence[Layer]
    styles: tuple[int, ...]
    content: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return content features [n, c, h, w] and Gram matrices [n, c, c] of images [n, 3, height, width] with values in [0, 1].

        A Gram matrix is a mean over h x w.
        """
        mean, deviation = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.deviation))
        found, kept = (images - mean) / deviation, []
        for layer in self.layers:
            found = layer(found)
            kept.append(found)
        flat = [kept[number].flatten(2) for number in self.styles]
        return kept[self.content], [each @ each.mT / each.shape[2] for each in flat]


NETWORKS = ("random", "onet", "vgg16")
"""Names of the feature networks; of each but the first, also that of the data set that holds its weights."""

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CENTRED = (0.5, 0.5, 0.5)
_VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
"""Where torchvision's VGG-16 has the convolutions of its first four blocks."""


def features(name: str, weights: bytes | None, device: torch.device, dtype: torch.dtype) -> Features:
    """Return a feature network by name.

    `random` draws its weights, the same ones always (He et al. 2015), of five convolutions with 16 to 64 channels: untrained features
    transfer style, too (He, Wang & Hopcroft 2016). `onet` and `vgg16` read theirs from `weights`, the content of a file of
    torch tensors by name.

    Raises:
        MetabenchError: there is no such network, or `weights` are not its.
    """
    if name == "random":
        layers, styles, content = _random(), (0, 2, 4), 3
        mean, deviation = _CENTRED, (0.25, 0.25, 0.25)
    elif name == "onet":
        held = _read(name, weights)
        layers = [
            _held(name, held, f"conv{number}", pool=number > 1, slope=f"prelu{number}.weight") for number in (1, 2, 3)
        ]
        styles, content = (0, 1, 2), 2
        mean, deviation = _CENTRED, _CENTRED
    elif name == "vgg16":
        held = _read(name, weights)
        layers = [_held(name, held, f"features.{place}", pool=place in (5, 10, 17)) for place in _VGG16]
        styles, content = (1, 3, 6, 9), 6
        mean, deviation = _IMAGENET
    else:
        raise unknown("feature network", name, NETWORKS)
    return Features([layer.to(device, dtype) for layer in layers], styles, content, mean, deviation)


def _random() -> list[Layer]:
    stream = generator(0, "random features")
    layers, before = [], 3
    for channels, pool in ((16, False), (16, False), (32, True), (32, False), (64, True)):
        drawn = torch.randn((channels, before, 3, 3), generator=stream, dtype=torch.float64)
        bias = torch.zeros(channels, dtype=torch.float64)
        layers.append(Layer(drawn * math.sqrt(2 / (9 * before)), bias, None, pool))
        before = channels
    return layers


def _read(name: str, weights: bytes | None) -> dict[str, torch.Tensor]:
    try:
        held = torch.load(io.BytesIO(weights or b""), map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file: whatever unpickling comes upon
        raise MetabenchError(f"the weights of feature network '{name}' cannot be read: {error}") from error
    return dict(held)


def _held(name: str, held: dict[str, torch.Tensor], layer: str, pool: bool, slope: str = "") -> Layer:
    try:
        return Layer(held[f"{layer}.weight"], held[f"{layer}.bias"], held[slope] if slope else None, pool)
    except KeyError as error:
        raise MetabenchError(f"the weights of feature network '{name}' have no {error}") from error
