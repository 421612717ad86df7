"""From images to kernels of all their pairs: what each layer reads of an image, and blocks of pairs through all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metabench.core.lazy import torch
from metabench.kernels.activations import Activation, Leaky, activation
from metabench.kernels.covariances import Covariances
from metabench.kernels.pixels import Buffers, Layer, State, Units, activated, deficit_of, pooled, products, rectified

if TYPE_CHECKING:
    from metabench.kernels.convolutional import ConvNet

TOGETHER = 64
"""Images of rows whose units are kept for all columns."""
_ROWS, _COLUMNS = 0, 1


@dataclass(frozen=True)
class Tiling:
    """Blocks of pairs: images of rows and of columns in one, elements of a state, and of a slab."""

    down: int
    across: int
    block: int
    slab: int


class Propagation:
    """Images of some rows and columns on their way through a network, with the memory for a block of them.

    Args:
        network: what they go through.
        tiling: into blocks.
        like: a tensor of the dtype, on the device.
        opposite: whether patches of images may be opposite: there are pixels below zero.
    """

    def __init__(self, network: ConvNet, tiling: Tiling, like: torch.Tensor, opposite: bool) -> None:
        self._network, self._tiling, self._opposite = network, tiling, opposite
        self._activation: Activation = activation(network.activation)
        self._same, self._pooling = network.same, network.pooling
        self._buffers = Buffers(tiling.block, tiling.slab, like)

    def pairs(self, rows: torch.Tensor, columns: torch.Tensor, symmetric: bool = False) -> list[torch.Tensor]:
        """Return NNGP and NTK, shape [n, m] each; if symmetric, on and above the diagonal alone."""
        tiling, scale, bias = self._tiling, self._network.W_std**2, self._network.b_std**2
        left = self._bases(rows)
        right = left if columns is rows else self._bases(columns)
        nngp, ntk = (rows.new_zeros(len(rows), len(columns)) for _ in range(2))
        for top in range(0, len(rows), TOGETHER):
            tiles: list[tuple[slice, list[Units]]] = []
            for first in range(top, min(top + TOGETHER, len(rows)), tiling.down):
                down = slice(first, min(first + tiling.down, top + TOGETHER, len(rows)))
                tiles.append((down, [self._units(base[down], _ROWS) for base in left]))
            for start in range(0, len(columns), tiling.across):
                across = slice(start, start + tiling.across)
                if symmetric and across.stop <= top:
                    continue
                # Those of the last block are freed before there are others.
                others: list[Units] = []
                others += [self._units(base[across], _COLUMNS) for base in right]
                for down, some in tiles:
                    if symmetric and across.stop <= down.start:
                        break
                    units = zip(some, others, strict=True)
                    covariance, tangent = self._propagated(units)
                    nngp[down, across] = scale * self._read(covariance) + bias
                    ntk[down, across] = scale * self._read(tangent)
        return [nngp, ntk.add_(nngp)]

    def _read(self, state: torch.Tensor) -> torch.Tensor:
        """Return the mean of a state over the pixels of both images, or over the same ones, shape [n, m]."""
        if self._same:
            return state.mean((0, 1))
        if self._network.readout == "gap":
            return state.mean((0, 1, 2, 3))
        return _same_pixels(state).mean(-1)

    def _propagated(
        self,
        units: Iterable[tuple[Units, Units]],
        learn: Callable[[torch.Tensor], None] | None = None,
    ) -> State:
        """Return the covariances and the tangent kernels of a block after the layers that there are units of.

        Args:
            units: of rows and of columns, layer by layer.
            learn: called with the covariances after each pooling.

        Raises:
            MetabenchError: a correlation is above 1 by more than rounding.
        """
        between, buffers, slab = self._activation, self._buffers, self._tiling.slab
        scale = self._network.W_std**2 / 9
        state: State | None = None
        found: State | None = None
        for place, (left, right) in enumerate(units):
            last, pools = place + 1 == self._network.depth, place + 1 in self._pooling
            if found is not None and place in self._pooling:
                covariance, tangent = found
                state = buffers.next_state(covariance.shape)
                if isinstance(between, Leaky):
                    covariance = deficit_of(left.before[0] * right.before[0], covariance)
                torch.mul(covariance, scale, out=state[0])
                torch.mul(tangent, scale, out=state[1])
            after_it = 1.0 if last or pools else scale
            layer = Layer(between, self._network.b_std**2, after_it, 2 if self._same else 4)
            shape = torch.broadcast_shapes(left.roots.shape, right.roots.shape)
            if isinstance(between, Leaky):
                after = buffers.next_state(shape)
                rectified(layer, left, right, state, after, buffers, slab, self._opposite)
            else:
                if state is None:
                    state = buffers.next_state(shape)
                    products(left.before, right.before, scale, state)
                after = buffers.next_state(shape)
                activated(layer, left, right, state, after, buffers, slab)
            state = found = after
            if last or pools:
                if isinstance(between, Leaky):
                    first, _ = buffers.next_state(shape)
                    torch.mul(left.roots * _gain(between), right.roots * _gain(between), out=first)
                    found = first.sub_(after[0]), after[1]
                if pools:
                    found = pooled(found[0]), pooled(found[1])
                    if learn is not None:
                        learn(found[0])
        assert found is not None
        return found

    def _bases(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return what each convolution reads: images / sqrt(channels), then roots of variances, shape [n, 1, h, w].

        A variance after pooling is a mean of covariances within an image, so each image is propagated with itself.
        """
        bases = [images / images.shape[1] ** 0.5]
        for layer in range(1, self._network.depth):
            if layer not in self._pooling:
                bases.append(torch.cat([self._roots_after(some) for some in bases[-1].split(TOGETHER)]))
                continue
            learned: list[torch.Tensor] = []
            for some in zip(*(base.split(self._tiling.across) for base in bases), strict=True):
                variances: list[torch.Tensor] = []
                units = (
                    (self._units(base, _ROWS, matched=True), self._units(base, _COLUMNS, matched=True)) for base in some
                )
                self._propagated(units, variances.append)
                h, w = variances[-1].shape[:2]
                learned.append(_same_pixels(variances[-1]).reshape(-1, 1, h, w).sqrt())
            bases.append(torch.cat(learned))
        return bases

    def _roots_after(self, base: torch.Tensor) -> torch.Tensor:
        """Return the roots of the variances after a convolution and its activation, shape [n, 1, h, w]."""
        n, _, h, w = base.shape
        patches = self._patches(base)
        variances = patches.square_().sum(1).view(n, 1, h, w)
        between = self._activation
        if isinstance(between, Leaky):
            return variances.sqrt_().mul_(_gain(between))
        alone = variances.unsqueeze(-1)
        pair = torch.zeros_like(alone).unsqueeze(-1)
        after, _ = between.after(Covariances(alone, alone, pair, 2 * alone.unsqueeze(-1), pair))
        return after.rows.squeeze(-1).sqrt()

    def _patches(self, base: torch.Tensor) -> torch.Tensor:
        """Return patches of 3 x 3 pixels, times W_std / 3, and b_std where there are biases, shape [n, entries, pixels]."""
        found = torch.nn.functional.unfold(base, 3, padding=1).mul_(self._network.W_std / 3)
        if self._network.b_std == 0:
            return found
        return torch.cat([found, found.new_full((len(found), 1, found.shape[-1]), self._network.b_std)], 1)

    def _units(self, base: torch.Tensor, side: int, matched: bool = False) -> Units:
        """Return what a layer reads of some images, as rows or as columns; matched, pairs are of each image with itself."""
        n, channels, h, w = base.shape
        patches = self._patches(base)
        roots = patches.square().sum(1, keepdim=True).sqrt_()
        patches.div_(torch.where(roots > 0, roots, 1.0)).mul_(0.5**0.5)
        pixels = (h, w) if self._same else (h, w, 1, 1) if side == _ROWS else (1, 1, h, w)
        pairs = (n, 1, 1) if matched else (n, 1) if side == _ROWS else (1, n)

        def shaped(values: torch.Tensor) -> torch.Tensor:
            return values.movedim(0, -1).contiguous().view(-1, *pixels, *pairs)

        return Units(shaped(roots)[0], shaped(patches), shaped(base.reshape(n, channels, h * w)))


def _same_pixels(state: torch.Tensor) -> torch.Tensor:
    """Return the part of a state of all pairs of pixels, [h, w, h, w, ...], where both are the same, shape [..., h w]."""
    h, w, _, _, *pairs = state.shape
    return state.reshape(h * w, h * w, *pairs).diagonal(dim1=0, dim2=1)


def _gain(between: Leaky) -> float:
    """Return what a leaky ReLU makes of the root of a variance, relative to it."""
    return math.sqrt((1 + between.slope**2) / 2)
