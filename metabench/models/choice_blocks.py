"""Blocks of small image classifiers, and nets of them: stems, choices and mixtures of operations, residual blocks, and heads.

Every block is a frozen dataclass and the function of a segment, so blocks of the same sizes share one trace, wherever they stand and
whatever net they are a part of. Feature maps keep their size within an operation; a block may then halve it by maxima over 2 x 2.
An operation with weights is followed by normalisation and ReLU, one without is followed by neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from metabench.core.lazy import torch
from metabench.core.segments import LOSS, Segment
from metabench.core.types import Batch, Tree
from metabench.models.batch_norm import EPSILON, Normalise, by_batch, normalised
from metabench.models.operations import OPERATIONS, Shapes

BY_BATCH, BY_GROUP = "batch", "group"
NORMS = (BY_BATCH, BY_GROUP)
"""Of what normalisation takes its statistics: of a channel over the batch, or of an image over a group of channels (Wu & He 2018)."""
GROUP = 4
"""Channels of a group, where as many divide the width."""

_IMAGES, _TARGETS = "images", "targets"
MAP = "map"
"""Under which blocks hand on feature maps."""


def by_group(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Normalise each image by the mean and variance of each of its groups of channels, then scale and shift every channel.

    Written as batch normalisation, whose second and forward-mode derivatives torch has.
    """
    count, width = maps.shape[:2]
    groups = width // GROUP if width % GROUP == 0 else 1
    pieces = maps.reshape(1, count * groups, -1)
    found = torch.nn.functional.batch_norm(pieces, None, None, training=True, eps=EPSILON).view_as(maps)
    return found * weight[:, None, None] + bias[:, None, None]


class Block(Protocol):
    """A link of a chain from feature maps to feature maps, or from images to them."""

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block."""

    def maps(self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = "") -> torch.Tensor:
        """Return feature maps; `normalise` is given the `layer` where statistics are those of a batch."""

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return what a segment hands on."""


@dataclass(frozen=True)
class Normalised:
    """Normalisation and ReLU of a layer's maps, by the batch or by groups."""

    norm: str

    def __call__(
        self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = ""
    ) -> torch.Tensor:
        """Return the maps; the parameters are `norm.weight` and `norm.bias`."""
        if self.norm == BY_GROUP:
            return by_group(maps, params["norm.weight"], params["norm.bias"]).relu()

        def named(_: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return normalise(layer, hidden, weight, bias)

        return normalised(params, "norm", maps, named).relu()


@dataclass(frozen=True)
class Stem:
    """A 3 x 3 convolution of an image to `width` channels, normalisation and ReLU: the first block."""

    inputs: int
    width: int
    norm: str = BY_BATCH
    halves: bool = False

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block."""
        return {"weight": (self.width, self.inputs, 3, 3), "norm.weight": (self.width,), "norm.bias": (self.width,)}

    def maps(self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = "") -> torch.Tensor:
        """Return feature maps of images."""
        found = torch.nn.functional.conv2d(maps, params["weight"], padding=1)
        return halved(Normalised(self.norm)(params, found, normalise, layer), self.halves)

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the feature maps of a batch's images."""
        return {MAP: self.maps(params, batch[_IMAGES])}


@dataclass(frozen=True)
class Choice:
    """One operation, with normalisation and ReLU if it has weights."""

    operation: str
    width: int
    norm: str = BY_BATCH
    halves: bool = False

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block."""
        found = OPERATIONS[self.operation].shapes(self.width)
        return found | ({"norm.weight": (self.width,), "norm.bias": (self.width,)} if found else {})

    def maps(self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = "") -> torch.Tensor:
        """Return feature maps."""
        found = OPERATIONS[self.operation](params, maps)
        if params:
            found = Normalised(self.norm)(params, found, normalise, layer)
        return halved(found, self.halves)

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the feature maps."""
        return {MAP: self.maps(params, hidden[MAP])}


LOGITS = "logits"


@dataclass(frozen=True)
class Mixture:
    """The sum of operations, each with normalisation and ReLU if it has weights, weighted by a softmax of `logits`. Liu et al. 2019.

    Attributes:
        operations: by name.
        width: channels.
        norm: as in `NORMS`.
        halves: whether pooling follows that halves the maps.
        temperature: by which logits are divided.
        part: one over the part of the channels that are mixed, the first ones; the rest pass by, and both are interleaved. Xu et al. 2020.
    """

    operations: tuple[str, ...]
    width: int
    norm: str = BY_BATCH
    halves: bool = False
    temperature: float = 1.0
    part: int = 1

    def _choices(self) -> Iterator[tuple[str, Choice]]:
        for operation in self.operations:
            yield operation, Choice(operation, self.width // self.part, self.norm)

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block, its logits among them."""
        found: Shapes = {LOGITS: (len(self.operations),)}
        for operation, choice in self._choices():
            found |= {f"{operation}.{name}": shape for name, shape in choice.shapes().items()}
        return found

    def maps(self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = "") -> torch.Tensor:
        """Return feature maps."""
        weights = (params[LOGITS] / self.temperature).softmax(0)
        mixed, rest = maps.split([self.width // self.part, maps.shape[1] - self.width // self.part], 1)
        found = sum(
            weight * choice.maps(own(params, operation, choice.shapes()), mixed, normalise, f"{layer}.{operation}")
            for weight, (operation, choice) in zip(weights.unbind(), self._choices(), strict=True)
        )
        if self.part > 1:
            found = torch.cat([found, rest], 1).unflatten(1, (self.part, -1)).transpose(1, 2).flatten(1, 2)
        return halved(found, self.halves)

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the feature maps."""
        return {MAP: self.maps(params, hidden[MAP])}


@dataclass(frozen=True)
class Residual:
    """Three 3 x 3 convolutions beside a 1 x 1 one, summed, as in the ResNet-12 of few-shot learning. Lee et al. 2019, without DropBlock."""

    inputs: int
    width: int
    norm: str = BY_BATCH
    first: bool = False

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block."""
        found: Shapes = {}
        for name, inputs, kernel in (
            ("conv0", self.inputs, 3),
            ("conv1", self.width, 3),
            ("conv2", self.width, 3),
            ("short", self.inputs, 1),
        ):
            found[f"{name}.weight"] = (self.width, inputs, kernel, kernel)
            found[f"{name}.norm.weight"] = found[f"{name}.norm.bias"] = (self.width,)
        return found

    def maps(self, params: Tree, maps: torch.Tensor, normalise: Normalise = by_batch, layer: str = "") -> torch.Tensor:
        """Return feature maps of half the size."""

        def convolved(name: str, hidden: torch.Tensor) -> torch.Tensor:
            weight = params[f"{name}.weight"]
            found = torch.nn.functional.conv2d(hidden, weight, padding=weight.shape[-1] // 2)
            scale, shift = params[f"{name}.norm.weight"], params[f"{name}.norm.bias"]
            if self.norm == BY_GROUP:
                return by_group(found, scale, shift)
            return normalise(f"{layer}.{name}", found, scale, shift)

        def leaky(hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.leaky_relu(hidden, 0.1)

        found = leaky(convolved("conv1", leaky(convolved("conv0", maps))))
        return halved(leaky(convolved("conv2", found) + convolved("short", maps)), True)

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the feature maps of half the size."""
        return {MAP: self.maps(params, batch[_IMAGES] if self.first else hidden[MAP])}


def halved(maps: torch.Tensor, halves: bool) -> torch.Tensor:
    """Return the maxima over 2 x 2 pixels if asked to; a last odd row or column is left out."""
    if not halves:
        return maps
    if torch.is_grad_enabled():
        return torch.nn.functional.max_pool2d(maps, 2)
    # The same numbers in a tenth of the time on a CPU; only the derivative of the pooling is the faster one.
    maps = maps[..., : maps.shape[-2] // 2 * 2, : maps.shape[-1] // 2 * 2]
    rows = torch.maximum(maps[..., ::2, :], maps[..., 1::2, :])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


@dataclass(frozen=True)
class Head:
    """A linear layer on the flattened maps [n, width, side, side], or on their means over pixels, and the mean cross-entropy.

    Its weight has the shape of the maps, so that a narrower net's is a slice of it.
    """

    ways: int
    width: int
    side: int
    means: bool = False

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by its name within the block."""
        side = 1 if self.means else self.side
        return {"weight": (self.ways, self.width, side, side), "bias": (self.ways,)}

    def scores(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the scores [n, ways]."""
        features = maps.mean((2, 3)) if self.means else maps.flatten(1)
        return torch.nn.functional.linear(features, params["weight"].flatten(1), params["bias"])

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the loss."""
        scores = self.scores(params, hidden[MAP])
        return {LOSS: torch.nn.functional.cross_entropy(scores, batch[_TARGETS])}


@dataclass(frozen=True)
class BlockNet:
    """An image classifier as a chain: blocks by name, the first of which takes images, and a head.

    Batches hold `images` [n, channels, side, side] and `targets` [n].
    """

    blocks: tuple[tuple[str, Block], ...]
    head: Head

    @functools.cached_property
    def _parts(self) -> tuple[tuple[str, Block | Head], ...]:
        return (*self.blocks, ("head", self.head))

    def shapes(self) -> Shapes:
        """Return the shape of every parameter by name."""
        return {f"{part}.{name}": shape for part, block in self._parts for name, shape in block.shapes().items()}

    def parameters(self) -> int:
        """Return how many parameters it has."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return weights as of `drawn_weights`."""
        return drawn_weights(self.shapes(), generator, dtype)

    def segments(self) -> tuple[Segment, ...]:
        """Return the mean cross-entropy as a chain; blocks of the same sizes share a trace."""
        return tuple(self._segments())

    def _segments(self) -> Iterator[Segment]:
        for place, (part, block) in enumerate(self._parts):
            names = tuple((name, f"{part}.{name}") for name in block.shapes())
            reads = (_IMAGES,) * (place == 0) + (_TARGETS,) * (block is self.head)
            yield Segment(part, block, names, batch=reads)

    def names_of(self, part: str) -> tuple[str, ...]:
        """Return the names of the parameters of a block, or of 'head'."""
        return tuple(f"{part}.{name}" for name in dict(self._parts)[part].shapes())

    def maps(self, params: Tree, images: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return the last feature maps [n, width, side, side] of images."""
        maps = images
        for part, block in self.blocks:
            maps = block.maps(own(params, part, block.shapes()), maps, normalise, part)
        return maps

    def scores(self, params: Tree, images: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor:
        """Return the scores [n, ways] of images; statistics of batches are those that `normalise` takes."""
        return self.head.scores(own(params, "head", self.head.shapes()), self.maps(params, images, normalise))


def own(params: Tree, part: str, names: Sequence[str] | Shapes) -> Tree:
    """Return the parameters of a block by their names within it."""
    return {name: params[f"{part}.{name}"] for name in names}


def drawn_weights(shapes: Shapes, generator: torch.Generator, dtype: torch.dtype) -> Tree:
    """Return weights drawn as He et al. 2015, a head's without the factor for ReLU; scales one, shifts and biases zero; logits near zero.

    Always drawn in float64, then rounded: the same in every dtype.
    """
    params: Tree = {}
    for name, shape in shapes.items():
        if name.endswith(LOGITS):
            # Nearly equal, as in Liu et al. 2019.
            params[name] = (1e-3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
            continue
        if len(shape) == 1:
            params[name] = torch.full(shape, float(name.endswith("weight")), dtype=dtype)
            continue
        gain = 1.0 if name.startswith("head.") else 2.0
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        params[name] = (noise * math.sqrt(gain / math.prod(shape[1:]))).to(dtype)
    return params


def image_batch(images: torch.Tensor, targets: torch.Tensor) -> Batch:
    """Return the batch that a chain reads."""
    return {_IMAGES: images, _TARGETS: targets}
