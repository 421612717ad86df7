"""A convolution and an activation on the covariances of all pairs of pixels, in place and in slabs that fit the cache.

Arora et al. 2019 (CNTK), section 4; zero padding and scales are those of Novak et al. 2020 (neural-tangents). A state is what is known of
a block of pairs of images after an activation: of all pairs of their pixels, shape [h, w, h, w, ...], or of the same pixel in both,
[h, w, ...]; trailing dimensions are pairs of images.

Of ReLU the state has the deficit d = sqrt(a b) - c (see `covariances`). With alpha, beta the roots of the variances in two 3 x 3 patches,
times W_std / 3, and b_std as a tenth entry, a convolution makes of it

    d' = W_std^2 / 9 sum d + |alpha| |beta| - alpha.beta = W_std^2 / 9 sum d + |alpha| |beta| |alpha / |alpha| - beta / |beta||^2 / 2 ,

sums of numbers that are not negative, so nothing cancels. In the first layer the patches themselves are alpha and beta, and there is no d.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.activations import Activation, Leaky
from metabench.kernels.covariances import accepted, of_moments

BUFFERS = 8
"""Of the size of a block: two of each state before and after a layer, and four to work in."""


@dataclass(frozen=True)
class Units:
    """What a layer reads of some images, shaped to broadcast against a state.

    Attributes:
        roots: square roots of the variances after the convolution.
        vectors: alpha / |alpha| / sqrt(2), one entry after another along the first dimension.
        before: what the convolution reads: channels of an image along the first dimension, or one of the roots of variances.
    """

    roots: torch.Tensor
    vectors: torch.Tensor
    before: torch.Tensor

    def slab(self, start: int, stop: int, height: int) -> Units:
        """Return those of some rows of pixels, out of `height`; all where they broadcast along them."""
        if self.roots.shape[0] != height:
            return self
        return Units(self.roots[start:stop], self.vectors[:, start:stop], self.before[:, start:stop])


@dataclass(frozen=True)
class Layer:
    """A 3 x 3 convolution and an activation.

    Attributes:
        activation: after it.
        bias: b_std^2.
        after: by what the state is multiplied after it: W_std^2 / 9, so that the next layer only sums over patches, or 1.
        spatial: dimensions of a state that are pixels: 4, or 2 where only the same pixel of both images matters.
    """

    activation: Activation
    bias: float
    after: float
    spatial: int


class Buffers:
    """Memory for a block of pairs, allocated once: a state before and one after a layer, and slabs to work in."""

    def __init__(self, elements: int, slab: int, like: torch.Tensor) -> None:
        self._states = [[like.new_empty(elements) for _ in range(2)] for _ in range(2)]
        self._work = [like.new_empty(slab) for _ in range(4)]
        self._turn = 0

    def next_state(self, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two tensors of a state to write; those of the one returned before it stay as they are."""
        self._turn = 1 - self._turn
        first, second = (one[: math.prod(shape)].view(*shape) for one in self._states[self._turn])
        return first, second

    def work(self, shape: Sequence[int]) -> list[torch.Tensor]:
        """Return four slabs to work in."""
        return [one[: math.prod(shape)].view(*shape) for one in self._work]


def slab_rows(shape: Sequence[int], elements: int) -> int:
    """Return how many rows of pixels of a state a slab of some elements holds, one or more."""
    return min(shape[0], max(1, elements // math.prod(shape[1:])))


def add_patches(source: torch.Tensor, start: int, work: torch.Tensor, out: torch.Tensor, spatial: int) -> None:
    """Add to a slab the sums over 3 x 3 patches, zero outside the image, moved in both images alike: first of rows, then of columns.

    Args:
        source: a state, shape [h, w, h, w, ...] or [h, w, ...].
        start: the first row of pixels of the slab.
        work: overwritten, of the shape of the slab.
        out: the slab.
        spatial: dimensions that are pixels, 4 or 2.
    """
    work.copy_(source[start : start + len(out)])
    for offset in (-1, 1):
        _add_moved(work, source, range(0, spatial, 2), offset, start)
    out.add_(work)
    for offset in (-1, 1):
        _add_moved(out, work, range(1, spatial, 2), offset, 0)


def _add_moved(out: torch.Tensor, source: torch.Tensor, dimensions: Sequence[int], offset: int, start: int) -> None:
    """Add what lies `offset` further along dimensions; the first of all begins at `start` in the source."""
    for dimension in dimensions:
        shift = offset + (start if dimension == 0 else 0)
        low = max(0, -shift)
        length = max(0, min(out.shape[dimension], source.shape[dimension] - shift) - low)
        out, source = (
            out.narrow(dimension, low, length),
            source.narrow(dimension, min(low + shift, source.shape[dimension]), length),
        )
    out.add_(source)


State: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""Deficits, or covariances, and tangent kernels after an activation."""


def rectified(
    layer: Layer,
    left: Units,
    right: Units,
    before: State | None,
    after: State,
    buffers: Buffers,
    slab: int,
    opposite: bool,
) -> None:
    """Write the state after a convolution and a leaky ReLU: deficits, and tangent kernels.

    With t the angle of a pair, sqrt(a b) sin t = sqrt(d e) and sqrt(a b) cos t = c. So after ReLU the deficit is
    d/2 - (sqrt(d e) - t c) / 2 pi, off by t times the rounding: the angle that the next layer finds from it keeps all of its digits.

    Args:
        layer: with a `Leaky` activation.
        left: of the images of rows.
        right: of those of columns.
        before: the state before; None: there is none, and the units are those of patches of the images.
        after: the state to write.
        buffers: to work in.
        slab: elements of a slab.
        opposite: whether patches may be opposite, so that the excess needs a sum of its own.
    """
    assert isinstance(layer.activation, Leaky)
    slope = layer.activation.slope
    bent = (1 - slope) ** 2
    straight, turned = layer.after * (slope + bent / 2), layer.after * bent / math.pi
    deficits = after[0]
    rows = slab_rows(deficits.shape, slab)
    for start in range(0, len(deficits), rows):
        deficit, tangent = (one[start : start + rows] for one in after)
        one, other = (side.slab(start, start + rows, len(deficits)) for side in (left, right))
        first, second, covariance, excess = buffers.work(deficit.shape)
        product = torch.mul(one.roots, other.roots, out=excess)
        _squared_distance(one.vectors, other.vectors, torch.sub, first, deficit)
        deficit.mul_(product)
        if before is None and opposite:
            _squared_distance(one.vectors, other.vectors, torch.add, first, second)
            torch.sub(product, deficit, out=covariance)
            # Less is rounding, and the ratio to it is to be finite.
            excess.mul_(second.clamp_(min=torch.finfo(second.dtype).eps ** 2))
        else:
            if before is not None:
                add_patches(before[0], start, first, deficit, layer.spatial)
            torch.sub(product, deficit, out=covariance)
            if slope:
                least = torch.mul(product, torch.finfo(product.dtype).eps, out=first)
                torch.maximum(excess.add_(covariance), least, out=excess)
            else:
                # After ReLU, as of pixels that are not negative, c is not below zero, and the excess not below the product.
                excess.add_(covariance)
        tangent.copy_(covariance)
        if before is not None:
            add_patches(before[1], start, first, tangent, layer.spatial)
        # Half the angle is atan(sqrt(d / e)), which is 0 where a variance is, and atan is four times as fast as atan2.
        half = torch.div(deficit, excess.clamp_(min=torch.finfo(excess.dtype).tiny), out=first).sqrt_()
        sine = excess.mul_(half)
        half.atan_()
        tangent.mul_(torch.mul(half, -turned, out=second).add_(straight))
        sine.addcmul_(half, covariance, value=-2)
        # Not below zero but by rounding: an angle of 1e-16 is one of zero.
        deficit.mul_(straight).sub_(sine, alpha=turned / 2).clamp_(min=0)


def _squared_distance(
    left: torch.Tensor, right: torch.Tensor, joined: Callable[..., torch.Tensor], work: torch.Tensor, out: torch.Tensor
) -> None:
    """Set a slab to |u - v|^2, or |u + v|^2, summed over the first dimension: a product of matrices loses half of the digits."""
    for place, (one, other) in enumerate(zip(left, right, strict=True)):
        joined(one, other, out=work)
        if place:
            out.addcmul_(work, work)
        else:
            torch.mul(work, work, out=out)


def activated(
    layer: Layer, left: Units, right: Units, before: State, after: State, buffers: Buffers, slab: int
) -> None:
    """Write the state after a convolution and any activation: covariances, and tangent kernels. Arguments as of `rectified`.

    Raises:
        MetabenchError: a covariance is above the root of its variances.
    """
    covariances = after[0]
    rows = slab_rows(covariances.shape, slab)
    for start in range(0, len(covariances), rows):
        found, tangent = (one[start : start + rows] for one in after)
        one, other = (side.slab(start, start + rows, len(covariances)) for side in (left, right))
        work, covariance, *_ = buffers.work(found.shape)
        add_patches(before[0], start, work, covariance.fill_(layer.bias), layer.spatial)
        add_patches(before[1], start, work, tangent.copy_(covariance), layer.spatial)
        values = of_moments(one.roots.squeeze(-1).square(), other.roots.squeeze(-2).square(), covariance)
        values, slopes = layer.activation.after(values)
        torch.mul(values.covariance, layer.after, out=found)
        tangent.mul_(slopes).mul_(layer.after)


def pooled(state: torch.Tensor) -> torch.Tensor:
    """Return the means of a state over windows of 2 x 2 pixels in both images."""
    h, w, other_h, other_w, *images = state.shape
    return state.view(h // 2, 2, w // 2, 2, other_h // 2, 2, other_w // 2, 2, *images).mean((1, 3, 5, 7))


def deficit_of(product: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return sqrt(a b) - c, which loses half of the digits of a small angle, where nothing else is known.

    Raises:
        MetabenchError: a correlation is above 1 by more than rounding.
    """
    beyond = covariance.abs() > (1 + accepted(product.dtype)) * product
    if bool(beyond.any()):
        worst = float((covariance / product).abs()[beyond].max())
        raise MetabenchError(f"two pixels have the correlation {worst:.12g}: expected at most 1, up to rounding")
    return (product - covariance).clamp_(min=0)


def products(left: torch.Tensor, right: torch.Tensor, scale: float, state: State) -> None:
    """Set a state to the products of pixels, summed over channels, times a scale, and to tangent kernels of zero."""
    first, second = state
    for place, (one, other) in enumerate(zip(left * scale, right, strict=True)):
        torch.mul(one, other, out=second)
        if place:
            first.add_(second)
        else:
            first.copy_(second)
    second.zero_()
