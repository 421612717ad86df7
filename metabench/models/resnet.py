"""Residual networks with batch normalisation: those of CIFAR, the wide ones, and those of few-shot learning.

He et al. 2016 (ResNet-32: 3 stages of 5 blocks, shortcuts without parameters), Zagoruyko & Komodakis 2016 (WRN-28-10: normalisation and
ReLU before each convolution, projections as shortcuts, here without dropout), Chen et al. 2019 (ResNet-10, 18 and 34). Normalisation is
that of `metabench.models.batch_norm`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.batch_norm import Normalise, by_batch, normalised
from metabench.models.named import NamedClassifier

_LARGE = 64
"""From this side on, a few-shot network begins with a 7 x 7 convolution and pooling; smaller images would be gone after it."""


class Block(NamedTuple):
    """A residual block: its name, its channels before and after, and its stride."""

    name: str
    before: int
    after: int
    stride: int


@dataclass(frozen=True)
class ResNet:
    """A convolution, stages of residual blocks of two 3 x 3 convolutions each, the mean over pixels, and a linear layer.

    Attributes:
        inputs: channels of an image.
        stem: channels after the first convolution.
        stages: channels and number of blocks of each stage; all but the first halve the image.
        classes: number of class scores.
        projected: whether shortcuts that change the shape are 1 x 1 convolutions; otherwise they skip pixels and add channels of zeros.
        before: whether normalisation and ReLU come before each convolution rather than after it.
        large: whether the first convolution is 7 x 7 with stride 2, followed by 3 x 3 pooling by maxima with stride 2; otherwise 3 x 3.
    """

    inputs: int
    stem: int
    stages: tuple[tuple[int, int], ...]
    classes: int
    projected: bool = False
    before: bool = False
    large: bool = False

    batch_normalised: ClassVar[bool] = True

    @classmethod
    def cifar(cls, blocks: int, channels: int, input_shape: tuple[int, ...], classes: int) -> ResNet:
        """Return the network of depth 6 `blocks` + 2, whose first stage has `channels`. He et al. 2016, section 4.2."""
        return cls(input_shape[0], channels, tuple((channels * 2**i, blocks) for i in range(3)), classes)

    @classmethod
    def wide(cls, blocks: int, factor: int, input_shape: tuple[int, ...], classes: int) -> ResNet:
        """Return the network of depth 6 `blocks` + 4. Zagoruyko & Komodakis 2016, table 1."""
        stages = tuple((16 * factor * 2**i, blocks) for i in range(3))
        return cls(input_shape[0], 16, stages, classes, projected=True, before=True)

    @classmethod
    def few_shot(cls, blocks: tuple[int, ...], input_shape: tuple[int, ...], classes: int) -> ResNet:
        """Return the network with these numbers of blocks. Chen et al. 2019, whose stages have 64 to 512 channels."""
        stages = tuple((64 * 2**i, count) for i, count in enumerate(blocks))
        return cls(input_shape[0], 64, stages, classes, projected=True, large=input_shape[-1] >= _LARGE)

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return self.stages[-1][0]

    def blocks(self) -> Iterator[Block]:
        """Yield the residual blocks in order."""
        channels = self.stem
        for i, (after, count) in enumerate(self.stages):
            for j in range(count):
                yield Block(f"stage{i}.block{j}", channels, after, 2 if i > 0 and j == 0 else 1)
                channels = after

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name."""
        side = 7 if self.large else 3
        found: dict[str, tuple[int, ...]] = {"stem.weight": (self.stem, self.inputs, side, side)}
        norms = [] if self.before else [("stem.norm", self.stem)]
        for name, before, after, stride in self.blocks():
            found[f"{name}.conv1.weight"] = (after, before, 3, 3)
            found[f"{name}.conv2.weight"] = (after, after, 3, 3)
            norms += [(f"{name}.norm1", before if self.before else after), (f"{name}.norm2", after)]
            if self.projected and (before, stride) != (after, 1):
                found[f"{name}.shortcut.weight"] = (after, before, 1, 1)
                norms += [] if self.before else [(f"{name}.shortcut.norm", after)]
        norms += [("last.norm", self.features)] if self.before else []
        for norm, channels in norms:
            found[f"{norm}.weight"] = found[f"{norm}.bias"] = (channels,)
        return found | {"head.weight": (self.classes, self.features), "head.bias": (self.classes,)}

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights drawn as He et al. 2015; scales one, shifts and biases zero. Always drawn in float64, then rounded."""
        params: Tree = {}
        for name, shape in self.shapes().items():
            if len(shape) == 1:
                # Of one dimension are the scales and shifts of normalisation, and the last bias.
                params[name] = torch.full(shape, float(name.endswith("weight")), dtype=dtype)
            else:
                gain = 1.0 if name == "head.weight" else 2.0
                drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
                params[name] = (drawn * math.sqrt(gain / math.prod(shape[1:]))).to(dtype)
        return params

    def __call__(self, params: Tree, inputs: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return class scores, shape [n, classes], of images of shape [n, channels, height, width]."""
        hidden = self.map(params, inputs, normalise).mean((2, 3))
        return torch.nn.functional.linear(hidden, params["head.weight"], params["head.bias"])

    def map(self, params: Tree, inputs: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return the last stage's output, shape [n, features, height, width]."""

        def norm(layer: str, hidden: torch.Tensor) -> torch.Tensor:
            return normalised(params, layer, hidden, normalise)

        hidden = _convolved(params, "stem", inputs, 2 if self.large else 1)
        hidden = hidden if self.before else norm("stem.norm", hidden).relu()
        if self.large:
            hidden = torch.nn.functional.max_pool2d(hidden, 3, 2, 1)
        for block in self.blocks():
            name = block.name
            given = norm(f"{name}.norm1", hidden).relu() if self.before else hidden
            found = _convolved(params, f"{name}.conv1", given, block.stride)
            found = norm(f"{name}.norm2" if self.before else f"{name}.norm1", found).relu()
            found = _convolved(params, f"{name}.conv2", found)
            if self.before:
                hidden = found + self._shortcut(params, block, given, hidden)
            else:
                skipped = self._shortcut(params, block, hidden, hidden)
                if f"{name}.shortcut.norm.weight" in params:
                    skipped = norm(f"{name}.shortcut.norm", skipped)
                hidden = (norm(f"{name}.norm2", found) + skipped).relu()
        return norm("last.norm", hidden).relu() if self.before else hidden

    def _shortcut(self, params: Tree, block: Block, given: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return what a block adds to its convolutions: `hidden` itself, or `given` projected, or `hidden` thinned out and padded."""
        if (block.before, block.stride) == (block.after, 1):
            return hidden
        if self.projected:
            return _convolved(params, f"{block.name}.shortcut", given, block.stride)
        more = block.after - block.before
        thinned = hidden[:, :, :: block.stride, :: block.stride]
        return torch.nn.functional.pad(thinned, (0, 0, 0, 0, more // 2, more - more // 2))


def _convolved(params: Tree, layer: str, hidden: torch.Tensor, stride: int = 1) -> torch.Tensor:
    weight = params[f"{layer}.weight"]
    return torch.nn.functional.conv2d(hidden, weight, stride=stride, padding=weight.shape[-1] // 2)


_RESNET32 = {1: "resnet32", **{width: f"resnet32x{width}" for width in range(2, 6)}}
_FEW_SHOT = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}

RESNETS = (
    NamedClassifier(
        "resnet8w4", "ResNet-8 of CIFAR, first stage of 4 channels", "ResNet", functools.partial(ResNet.cifar, 1, 4), 30
    ),
    NamedClassifier(
        "resnet8", "ResNet-8 of CIFAR, first stage of 16 channels", "ResNet", functools.partial(ResNet.cifar, 1, 16), 31
    ),
    *(
        NamedClassifier(
            name,
            f"ResNet-32 of CIFAR, first stage of {16 * width} channels",
            "ResNet-32",
            functools.partial(ResNet.cifar, 5, 16 * width),
            31 + width,
        )
        for width, name in _RESNET32.items()
    ),
    NamedClassifier("wrn28_10", "wide ResNet, WRN-28-10", "wide ResNet", functools.partial(ResNet.wide, 4, 10), 40),
    *(
        NamedClassifier(
            name,
            f"ResNet-{name[6:]} of few-shot learning, stages of 64 to 512 channels",
            "few-shot ResNet",
            functools.partial(ResNet.few_shot, blocks),
            41 + place,
        )
        for place, (name, blocks) in enumerate(_FEW_SHOT.items())
    ),
)
