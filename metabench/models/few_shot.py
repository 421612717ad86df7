"""Metric networks of few-shot learning: features, and scores of queries by comparing them with the classes' labelled images.

Features come from Conv-4 (Vinyals et al. 2016) or from a ResNet of few-shot learning (Chen et al. 2019), with the batch normalisation of
`metabench.models.batch_norm`. Scores are negative squared distances to the classes' mean features (Snell et al. 2017, ProtoNet), or what a
small network says of the class's mean feature map beside the query's (Sung et al. 2018, RelationNet), here with cross-entropy as in
Tseng et al. 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.batch_norm import Normalise, by_batch, normalised
from metabench.models.resnet import ResNet

HEADS = ("prototypes", "relations")

SHARPNESS = 10.0
"""By what mean squared distances are multiplied. Their sum over features, as in Snell et al. 2017, saturates the softmax within a few
steps, and generalises worse: 89.4 against 91.2 % on the validation scripts of `glyphs`."""

_SMALLEST_MAP = 4

CONV4 = {f"conv4w{width}": width for width in (4, 16, 32, 64)}
"""Channels of Conv-4 by name."""

RESNETS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""Blocks of the residual networks' stages by name."""

SIZES = {name: f"Conv-4 of {width} channels" for name, width in CONV4.items()} | {
    name: f"ResNet-{name[6:]} of few-shot learning, stages of 64 to 512 channels" for name in RESNETS
}


class Backbone(Protocol):
    """From images to feature maps."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name."""

    def map(self, params: Tree, inputs: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return feature maps [n, features, height, width] of images [n, channels, height, width]."""


@dataclass(frozen=True)
class Conv4:
    """Four blocks of a 3 x 3 convolution, normalisation, ReLU and, in the first `pooled`, 2 x 2 pooling by maxima.

    Attributes:
        inputs: channels of an image.
        width: channels of every block.
        pooled: blocks that halve the image, the first ones.
    """

    inputs: int
    width: int
    pooled: int = 4

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name. A bias would be taken out by the normalisation."""
        found: dict[str, tuple[int, ...]] = {}
        for i in range(4):
            found[f"block{i}.conv.weight"] = (self.width, self.width if i else self.inputs, 3, 3)
            found[f"block{i}.norm.weight"] = found[f"block{i}.norm.bias"] = (self.width,)
        return found

    def map(self, params: Tree, inputs: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return feature maps [n, width, height, width]."""
        hidden = inputs
        for i in range(4):
            hidden = torch.nn.functional.conv2d(hidden, params[f"block{i}.conv.weight"], padding=1)
            hidden = normalised(params, f"block{i}.norm", hidden, normalise).relu()
            if i < self.pooled:
                hidden = torch.nn.functional.max_pool2d(hidden, 2)
        return hidden


@dataclass(frozen=True)
class MetricNetwork:
    """A backbone, and a head that compares.

    Attributes:
        backbone: from images to maps.
        transformed: normalisation layers at the end of a block, where Tseng et al. 2020 put their layers, with their channels.
        head: one of `HEADS`.
        features: shape of an image's map, [channels, height, width].
        pairs: channels of the relation module, and of its hidden layer.
    """

    backbone: Backbone
    transformed: dict[str, int]
    head: str
    features: tuple[int, int, int]
    pairs: tuple[int, int] = (64, 8)

    batch_normalised: ClassVar[bool] = True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name."""
        found = {name: shape for name, shape in self.backbone.shapes().items() if not name.startswith("head.")}
        if self.head == "relations":
            channels, height, width = self.features
            inner, hidden = self.pairs
            for i, before in enumerate((2 * channels, inner)):
                found[f"relation{i}.conv.weight"] = (inner, before, 3, 3)
                found[f"relation{i}.norm.weight"] = found[f"relation{i}.norm.bias"] = (inner,)
                height, width = max(1, height // 2), max(1, width // 2)
            found |= {"hidden.weight": (hidden, inner * height * width), "hidden.bias": (hidden,)}
            found |= {"score.weight": (1, hidden), "score.bias": (1,)}
        return found

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights drawn as He et al. 2015; scales one, shifts and biases zero. Always drawn in float64, then rounded."""
        params: Tree = {}
        for name, shape in self.shapes().items():
            if len(shape) == 1:
                # Of one dimension are the scales and shifts of normalisation, and biases.
                params[name] = torch.full(shape, float(name.endswith("weight")), dtype=dtype)
            else:
                drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
                params[name] = (drawn * math.sqrt(2.0 / math.prod(shape[1:]))).to(dtype)
        return params

    def __call__(self, params: Tree, inputs: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return features: maps [n, channels, height, width] where relations are scored, else vectors [n, features]."""
        maps = self.backbone.map(params, inputs, normalise)
        if self.head == "relations":
            return maps
        return maps.mean((2, 3)) if isinstance(self.backbone, ResNet) else maps.flatten(1)

    def scores(
        self, params: Tree, support: torch.Tensor, query: torch.Tensor, normalise: Normalise = by_batch
    ) -> torch.Tensor:
        """Return the classes' scores [queries, ways] of queries' features [queries, ...], given `support` [ways, shots, ...]."""
        classes = support.mean(1)
        if self.head == "prototypes":
            return -SHARPNESS * (query.unsqueeze(1) - classes.unsqueeze(0)).square().mean(2)
        ways, queries = len(classes), len(query)
        left = classes.unsqueeze(0).expand(queries, *classes.shape)
        right = query.unsqueeze(1).expand(queries, ways, *query.shape[1:])
        hidden = torch.cat([left, right], 2).flatten(0, 1)
        for i in range(2):
            hidden = torch.nn.functional.conv2d(hidden, params[f"relation{i}.conv.weight"], padding=1)
            hidden = normalised(params, f"relation{i}.norm", hidden, normalise).relu()
            if min(hidden.shape[2:]) > 1:
                hidden = torch.nn.functional.max_pool2d(hidden, 2)
        hidden = torch.nn.functional.linear(hidden.flatten(1), params["hidden.weight"], params["hidden.bias"]).relu()
        return torch.nn.functional.linear(hidden, params["score.weight"], params["score.bias"]).view(queries, ways)


def metric_network(size: str, head: str, input_shape: tuple[int, ...]) -> MetricNetwork:
    """Return the network of a named size for images of a shape [channels, side, side].

    Raises:
        MetabenchError: the images are too small for its pooling.
    """
    channels, side = input_shape[0], input_shape[-1]
    if size in RESNETS:
        resnet = ResNet.few_shot(RESNETS[size], input_shape, 1)
        ends = {f"{block.name}.norm2": block.after for block in resnet.blocks()}
        reduced = -(-side // (32 if resnet.large else 8))
        return MetricNetwork(resnet, ends, head, (resnet.features, reduced, reduced))
    # As often as leaves a map of 4 x 4 or more: 5 x 5 of 84 x 84 pixels, as is usual.
    conv = Conv4(channels, CONV4[size], pooled=min(4, max(2, (side // _SMALLEST_MAP).bit_length() - 1)))
    if (reduced := side // 2**conv.pooled) < 1:
        raise MetabenchError(
            f"images of {side} x {side} pixels are too small for {size}, which halves them {conv.pooled} times"
        )
    ends = {f"block{i}.norm": conv.width for i in range(4)}
    return MetricNetwork(conv, ends, head, (conv.width, reduced, reduced))
