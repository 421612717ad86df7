"""The operations that an architecture chooses from: convolutions, pooling, and what has no weights.

Each is a frozen dataclass, so operations of the same sizes share a trace. Feature maps keep their size.

To add an operation, write its class here and name it in `OPERATIONS`; a space offers it by that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metabench.core.lazy import torch
from metabench.core.types import Tree

Shapes = dict[str, tuple[int, ...]]


class Operation(Protocol):
    """From feature maps [n, width, side, side] to such maps; it may have no weights."""

    def shapes(self, width: int) -> Shapes:
        """Return the shape of every weight by its name; empty: it has none."""

    def flops(self, width: int, side: int) -> int:
        """Return the FLOPs of one image, a multiplication and an addition as two, of convolutions alone."""

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps."""


@dataclass(frozen=True)
class Convolution:
    """A convolution of `kernel` x `kernel` between all channels."""

    kernel: int

    def shapes(self, width: int) -> Shapes:
        """Return the shape of its weight."""
        return {"weight": (width, width, self.kernel, self.kernel)}

    def flops(self, width: int, side: int) -> int:
        """Return the FLOPs of one image."""
        return 2 * self.kernel**2 * width**2 * side**2

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps."""
        return torch.nn.functional.conv2d(maps, params["weight"], padding=self.kernel // 2)


@dataclass(frozen=True)
class Separable:
    """A convolution of each channel by itself, with gaps of `dilation`, then one of 1 x 1 between channels. Chollet 2017."""

    kernel: int
    dilation: int = 1

    def shapes(self, width: int) -> Shapes:
        """Return the shapes of its weights."""
        return {"depth.weight": (width, 1, self.kernel, self.kernel), "point.weight": (width, width, 1, 1)}

    def flops(self, width: int, side: int) -> int:
        """Return the FLOPs of one image."""
        return 2 * (self.kernel**2 * width + width**2) * side**2

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps."""
        depth = params["depth.weight"]
        padding = self.dilation * (self.kernel // 2)
        conv2d = torch.nn.functional.conv2d
        maps = conv2d(maps, depth, padding=padding, dilation=self.dilation, groups=len(depth))
        return conv2d(maps, params["point.weight"])


class _Bare:
    """What operations without weights share."""

    def shapes(self, width: int) -> Shapes:
        """Return nothing: it has no weights."""
        return {}

    def flops(self, width: int, side: int) -> int:
        """Return 0: pooling is not counted."""
        return 0


@dataclass(frozen=True)
class MeanPool(_Bare):
    """The mean over `kernel` x `kernel` pixels, those outside not counted."""

    kernel: int

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps."""
        padding = self.kernel // 2
        return torch.nn.functional.avg_pool2d(maps, self.kernel, 1, padding, count_include_pad=False)


@dataclass(frozen=True)
class MaxPool(_Bare):
    """The maximum over `kernel` x `kernel` pixels."""

    kernel: int

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps."""
        return torch.nn.functional.max_pool2d(maps, self.kernel, 1, self.kernel // 2)


@dataclass(frozen=True)
class Identity(_Bare):
    """The maps as they are: a layer less."""

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps."""
        return maps


@dataclass(frozen=True)
class Zero(_Bare):
    """Nothing: an edge that is not there."""

    def __call__(self, params: Tree, maps: torch.Tensor) -> torch.Tensor:
        """Return zeros."""
        return torch.zeros_like(maps)


IDENTITY = "identity"
OPERATIONS: dict[str, Operation] = {
    "conv3": Convolution(3),
    "conv5": Convolution(5),
    "sep3": Separable(3),
    "sep5": Separable(5),
    "dil3": Separable(3, dilation=2),
    "dil5": Separable(5, dilation=2),
    "pool3": MeanPool(3),
    "max3": MaxPool(3),
    IDENTITY: Identity(),
    "zero": Zero(),
}
