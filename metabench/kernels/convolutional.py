"""Kernels of infinitely wide convolutional networks on images: NNGP, and tangent kernel (CNTK).

Novak et al. 2019 (NNGP), Arora et al. 2019 (CNTK); names, scales and zero padding are those of Novak et al. 2020 (neural-tangents): 3 x 3
convolutions, each followed by an activation, then a dense layer with one output. Flattening needs covariances of the same pixel in two
images alone; pooling needs those of all pairs of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.activations import Activation, Leaky, activation
from metabench.kernels.covariances import Covariances
from metabench.kernels.dense import Kernels
from metabench.kernels.pixels import (
    BUFFERS,
    Buffers,
    Layer,
    State,
    Units,
    activated,
    deficit_of,
    pooled,
    products,
    rectified,
)

CACHE = {"cpu": 2**22, "cuda": 2**28}
"""Bytes of all buffers of a block of pairs, or of its slabs where one pair is larger: what a core keeps close, and what fills a GPU."""
_READOUTS = ("flatten", "pool", "gap")
_ROWS, _COLUMNS = 0, 1
_ACROSS = 32
"""Images of columns in a block of the same pixels: units of more would not fit."""
_TOGETHER = 64
"""Images of rows whose units are kept for all columns."""


@dataclass(frozen=True)
class ConvNet:
    """An infinitely wide convolutional network with one output, in NTK parametrisation.

    A layer is x -> W_std / sqrt(fan-in) W * x + b_std b with all weights from N(0, 1), stride 1, and zeros around the image.

    ReLU carries deficits (see `pixels`) and keeps all digits of two images at any distance, until a pooling that is not the last layer's:
    the deficit of a mean over pixels needs a difference, so angles below 1e-8 are lost there (3e-4 in float32). Other activations are
    smooth in the covariance and carry that; they are computed in float64 for any dtype.

    Attributes:
        depth: convolutions.
        activation: a name of `ACTIVATIONS`.
        W_std: standard deviation of weights, times the root of the fan-in.
        b_std: standard deviation of biases; 0: there are none.
        readout: what is between the last activation and the dense layer: 'flatten'; 'pool', which is 'flatten' with average pooling of
            2 x 2 pixels after some activations; 'gap', the mean over all pixels.
        pools: the layers, counted from 1, whose activation is followed by pooling; for 'pool', without any, each is.
    """

    depth: int = 3
    activation: str = "relu"
    W_std: float = 2**0.5
    b_std: float = 0.0
    readout: Literal["flatten", "pool", "gap"] = "gap"
    pools: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Raise MetabenchError where the options make no network."""
        if self.depth < 1 or not self.W_std > 0 or not self.b_std >= 0:
            raise MetabenchError(
                f"a convolutional network with depth {self.depth}, W_std {self.W_std:g} and b_std {self.b_std:g}: expected 1 or more "
                "layers, a W_std above 0 and a b_std of 0 or more"
            )
        if self.readout not in _READOUTS:
            raise MetabenchError(f"readout '{self.readout}': expected one of {', '.join(_READOUTS)}")
        if self.pools and self.readout == "flatten":
            raise MetabenchError(
                f"readout 'flatten' with pooling after layers {list(self.pools)}: expected readout 'pool' or 'gap'"
            )
        if any(not 1 <= one <= self.depth for one in self.pools) or len(set(self.pools)) < len(self.pools):
            raise MetabenchError(
                f"pooling after layers {list(self.pools)} of {self.depth}: expected some of 1 to {self.depth}, each once"
            )
        activation(self.activation)

    @property
    def pooling(self) -> frozenset[int]:
        """The layers, counted from 1, whose activation is followed by pooling."""
        every = self.readout == "pool" and not self.pools
        return frozenset(range(1, self.depth + 1) if every else self.pools)

    def kernels(self, rows: torch.Tensor, columns: torch.Tensor | None = None, cache: int | None = None) -> Kernels:
        """Return the kernels of all pairs of images, shape [n, m] each; nothing is differentiated.

        Args:
            rows: images [n, channels, height, width], float64 or float32.
            columns: images [m, channels, height, width]; None: rows, and half of the pairs are computed.
            cache: bytes of the buffers of a block of pairs; None: as `CACHE` has it for the device.

        Raises:
            MetabenchError: images are not finite, do not match, or pooling does not divide them; one is zero and there are no biases.
        """
        self._check(rows, columns)
        wanted = rows.dtype
        if not isinstance(activation(self.activation), Leaky):
            rows, columns = rows.double(), None if columns is None else columns.double()
        cache = cache or CACHE.get(rows.device.type, CACHE["cuda"])
        with torch.no_grad():
            if columns is None:
                found = self._pairs(rows, rows, cache, symmetric=True)
                found = [one.triu() + one.triu(1).mT for one in found]
            elif len(rows) <= len(columns):
                found = self._pairs(rows, columns, cache)
            else:
                # A block has one image of rows and many of columns.
                found = [one.mT.contiguous() for one in self._pairs(columns, rows, cache)]
        return Kernels(*(one.to(wanted) for one in found))

    def _check(self, rows: torch.Tensor, columns: torch.Tensor | None) -> None:
        """Raise MetabenchError where images have no kernel."""
        for name, images in (("first", rows), ("second", columns)):
            if images is None:
                continue
            if images.dim() != 4 or 0 in images.shape:
                raise MetabenchError(
                    f"the {name} images are of shape {list(images.shape)}: expected [images, channels, height, width], one of each or more"
                )
            if images.dtype not in (torch.float64, torch.float32):
                raise MetabenchError(f"the {name} images are of {images.dtype}: expected float64 or float32")
            if (images.shape[1:], images.dtype, images.device) != (rows.shape[1:], rows.dtype, rows.device):
                raise MetabenchError(
                    f"images of shape {list(rows.shape[1:])}, {rows.dtype}, on {rows.device}, and of {list(images.shape[1:])}, "
                    f"{images.dtype}, on {images.device} have no kernel: expected them alike"
                )
            flat = images.flatten(1)
            if not bool(flat.isfinite().all()):
                place = int((~flat.isfinite()).any(1).nonzero()[0, 0])
                raise MetabenchError(f"image {place} of the {name} ones has a value that is not finite")
            if self.b_std == 0 and not bool(flat.any(1).all()):
                place = int((~flat.any(1)).nonzero()[0, 0])
                raise MetabenchError(
                    f"image {place} of the {name} ones is zero, and the network has no biases (b_std 0): its outputs vanish"
                )
        height, width = rows.shape[2:]
        for layer in sorted(self.pooling):
            if height % 2 or width % 2:
                raise MetabenchError(
                    f"pooling of 2 x 2 pixels after layer {layer} does not divide {height} x {width} pixels, of images of "
                    f"{rows.shape[2]} x {rows.shape[3]}: pool after fewer layers, or pad the images"
                )
            height, width = height // 2, width // 2

    @property
    def _same(self) -> bool:
        """Whether covariances of the same pixel in both images are enough."""
        return self.readout == "flatten"

    @property
    def _activation(self) -> Activation:
        return activation(self.activation)

    def _tiling(self, shape: Sequence[int], columns: int, itemsize: int, cache: int) -> Tiling:
        """Return the blocks of pairs for images of a shape [n, channels, height, width] as rows."""
        height, width = shape[2:]
        one = height * width if self._same else (height * width) ** 2
        elements = cache // (BUFFERS * itemsize)
        pairs = max(1, elements // one)
        # Of all pairs of pixels, one image of rows: pixels and images of columns are then one long dimension.
        across = min(columns, pairs, _ACROSS if self._same else pairs)
        down = min(shape[0], pairs // across) if self._same else 1
        block = down * across * one
        return Tiling(down, across, block, min(block, max(elements, block // height)))

    def _pairs(
        self, rows: torch.Tensor, columns: torch.Tensor, cache: int, symmetric: bool = False
    ) -> list[torch.Tensor]:
        """Return NNGP and NTK, shape [n, m] each; if symmetric, on and above the diagonal alone."""
        tiling = self._tiling(rows.shape, len(columns), rows.element_size(), cache)
        buffers = Buffers(tiling.block, tiling.slab, rows)
        opposite = bool((rows < 0).any()) or bool((columns < 0).any())
        left = self._bases(rows, buffers, tiling, opposite)
        right = left if columns is rows else self._bases(columns, buffers, tiling, opposite)
        nngp, ntk = (rows.new_zeros(len(rows), len(columns)) for _ in range(2))
        for top in range(0, len(rows), _TOGETHER):
            tiles = []
            for first in range(top, min(top + _TOGETHER, len(rows)), tiling.down):
                down = slice(first, min(first + tiling.down, top + _TOGETHER, len(rows)))
                tiles.append((down, [self._units(base[down], _ROWS) for base in left]))
            for start in range(0, len(columns), tiling.across):
                across = slice(start, start + tiling.across)
                if symmetric and across.stop <= top:
                    continue
                others = [self._units(base[across], _COLUMNS) for base in right]
                for down, some in tiles:
                    if symmetric and across.stop <= down.start:
                        break
                    units = zip(some, others, strict=True)
                    covariance, tangent = self._propagated(units, buffers, tiling.slab, opposite)
                    nngp[down, across] = self.W_std**2 * self._read(covariance) + self.b_std**2
                    ntk[down, across] = self.W_std**2 * self._read(tangent)
        return [nngp, ntk.add_(nngp)]

    def _read(self, state: torch.Tensor) -> torch.Tensor:
        """Return the mean of a state over the pixels of both images, or over the same ones, shape [n, m]."""
        if self._same:
            return state.mean((0, 1))
        if self.readout == "gap":
            return state.mean((0, 1, 2, 3))
        return _same_pixels(state).mean(-1)

    def _propagated(
        self,
        units: Iterable[tuple[Units, Units]],
        buffers: Buffers,
        slab: int,
        opposite: bool,
        learn: Callable[[torch.Tensor], None] | None = None,
    ) -> State:
        """Return the covariances and the tangent kernels of a block after the layers that there are units of.

        Args:
            units: of rows and of columns, layer by layer, each made when it is reached.
            buffers: to work in; what is returned may lie there.
            slab: elements of a slab.
            opposite: whether patches of images may be opposite.
            learn: called with the covariances after each pooling.
        """
        between = self._activation
        scale, leaky = self.W_std**2 / 9, isinstance(between, Leaky)
        state: State | None = None
        found: State = ()
        for place, (left, right) in enumerate(units):
            last, pools = place + 1 == self.depth, place + 1 in self.pooling
            if place in self.pooling:
                state = buffers.next_state(found[0].shape)
                first = deficit_of(left.before[0] * right.before[0], found[0]) if leaky else found[0]
                for one, value in zip(state, (first, found[1]), strict=True):
                    torch.mul(value, scale, out=one)
            layer = Layer(between, scale, self.b_std**2, 1.0 if last or pools else scale, 2 if self._same else 4)
            shape = torch.broadcast_shapes(left.roots.shape, right.roots.shape)
            if leaky:
                after = buffers.next_state(shape)
                rectified(layer, left, right, state, after, buffers, slab, opposite)
            else:
                if state is None:
                    state = buffers.next_state(shape)
                    products(left.before, right.before, scale, state)
                after = buffers.next_state(shape)
                activated(layer, left, right, state, after, buffers, slab)
            state = found = after
            if last or pools:
                if leaky:
                    first, _ = buffers.next_state(shape)
                    torch.mul(left.roots * _gain(between), right.roots * _gain(between), out=first)
                    found = first.sub_(after[0]), after[1]
                if pools:
                    found = pooled(found[0]), pooled(found[1])
                    if learn is not None:
                        learn(found[0])
        return found

    def _bases(self, images: torch.Tensor, buffers: Buffers, tiling: Tiling, opposite: bool) -> list[torch.Tensor]:
        """Return what each convolution reads: images / sqrt(channels), then roots of variances, shape [n, 1, h, w].

        A variance after pooling is a mean of covariances within an image, so each image is propagated with itself.
        """
        bases = [images / images.shape[1] ** 0.5]
        for layer in range(1, self.depth):
            if layer not in self.pooling:
                bases.append(self._roots_after(bases[-1]))
                continue
            learned: list[torch.Tensor] = []
            for some in zip(*(base.split(tiling.across) for base in bases), strict=True):
                variances: list[torch.Tensor] = []
                units = (
                    (self._units(base, _ROWS, matched=True), self._units(base, _COLUMNS, matched=True)) for base in some
                )
                self._propagated(units, buffers, tiling.slab, opposite, variances.append)
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
        found = torch.nn.functional.unfold(base, 3, padding=1).mul_(self.W_std / 3)
        if self.b_std == 0:
            return found
        return torch.cat([found, found.new_full((len(found), 1, found.shape[-1]), self.b_std)], 1)

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


@dataclass(frozen=True)
class Tiling:
    """Blocks of pairs: images of rows and of columns in one, elements of a state, and of a slab."""

    down: int
    across: int
    block: int
    slab: int


def _same_pixels(state: torch.Tensor) -> torch.Tensor:
    """Return the part of a state of all pairs of pixels, [h, w, h, w, ...], where both are the same, shape [..., h w]."""
    h, w, _, _, *pairs = state.shape
    return state.reshape(h * w, h * w, *pairs).diagonal(dim1=0, dim2=1)


def _gain(between: Leaky) -> float:
    """Return what a leaky ReLU makes of the root of a variance, relative to it."""
    return math.sqrt((1 + between.slope**2) / 2)
