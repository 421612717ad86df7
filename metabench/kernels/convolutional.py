"""Kernels of infinitely wide convolutional networks on images: NNGP, and tangent kernel (CNTK).

Novak et al. 2019 (NNGP), Arora et al. 2019 (CNTK); names, scales and zero padding are those of Novak et al. 2020 (neural-tangents): 3 x 3
convolutions, each followed by an activation, then a dense layer with one output. Flattening needs covariances of the same pixel in two
images alone; pooling needs those of all pairs of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.activations import Leaky, Quadrature, activation
from metabench.kernels.dense import Kernels
from metabench.kernels.pixels import BUFFERS
from metabench.kernels.propagation import TOGETHER, Propagation, Tiling

CACHE = {"cpu": 2**22, "cuda": 2**28}
"""Bytes of all buffers of a block of pairs, or of its slabs where one pair is larger: what a core keeps close, and what fills a GPU."""
_READOUTS = ("flatten", "pool", "gap")
_ACROSS = 32
"""Images of columns in a block of the same pixels: units of more would not fit."""
_TEMPORARIES = {"erf": 10, "gelu": 13}
"""Slabs that an activation allocates which does not work in place, as measured."""

_NODES = 64
"""By as much a block is smaller where each number of it is a sum over nodes."""


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
        columns = None if columns is rows else columns
        self._check(rows, columns)
        wanted = rows.dtype
        if not isinstance(activation(self.activation), Leaky):
            rows, columns = rows.double(), None if columns is None else columns.double()
        cache = cache or CACHE.get(rows.device.type, CACHE["cuda"])
        with torch.no_grad():
            if columns is None:
                found = self._pairs(rows, rows, cache)
                found = [one.triu() + one.triu(1).mT for one in found]
            elif len(rows) <= len(columns):
                found = self._pairs(rows, columns, cache)
            else:
                # A block has one image of rows and many of columns.
                found = [one.mT.contiguous() for one in self._pairs(columns, rows, cache)]
        return Kernels(*(one.to(wanted) for one in found))

    def block_bytes(self, shape: Sequence[int], columns: int, itemsize: int = 8, cache: int | None = None) -> int:
        """Return the bytes that `kernels` takes at its peak on a CPU, results included, for images that are given.

        Args:
            shape: of images as rows, [n, channels, height, width].
            columns: m, the images as columns, other ones than rows.
            itemsize: bytes per number, 8 for float64; a network with another activation than of the ReLU family computes with 8.

        Raises:
            MetabenchError: the activation is computed by quadrature, whose nodes are not known before.
        """
        between = activation(self.activation)
        if isinstance(between, Quadrature):
            raise MetabenchError(
                f"activation '{self.activation}' is computed by quadrature: its memory depends on the inputs"
            )
        size = itemsize if isinstance(between, Leaky) else 8
        rows, channels, height, width = shape
        rows, columns = sorted((rows, columns))
        tiling = self._tiling((rows, channels, height, width), columns, size, cache or CACHE["cpu"])
        base = unit = last = 0
        for layer in range(self.depth):
            pixels, read = height * width, channels if layer == 0 else 1
            entries = 9 * read + (self.b_std > 0)
            base += read * pixels
            last = entries * pixels
            unit += last + (1 + read) * pixels
            if layer + 1 in self.pooling:
                height, width = height // 2, width // 2
        temporaries = 0 if isinstance(between, Leaky) else _TEMPORARIES[self.activation] * tiling.slab
        together = min(rows, TOGETHER)
        # The last layer's units are made from a copy as large.
        kept = (rows + columns) * base + (together + tiling.across) * unit + tiling.across * last
        results = 2 * rows * columns
        return size * (4 * tiling.block + 4 * tiling.slab + temporaries + kept + results)

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
    def same(self) -> bool:
        """Whether covariances of the same pixel in both images are enough."""
        return self.readout == "flatten"

    def _tiling(self, shape: Sequence[int], columns: int, itemsize: int, cache: int) -> Tiling:
        """Return the blocks of pairs for images of a shape [n, channels, height, width] as rows."""
        height, width = shape[2:]
        one = height * width if self.same else (height * width) ** 2
        nodes = _NODES if isinstance(activation(self.activation), Quadrature) else 1
        elements = cache // (BUFFERS * itemsize * nodes)
        pairs = max(1, elements // one)
        # Of all pairs of pixels, one image of rows: pixels and images of columns are then one long dimension.
        across = min(columns, pairs, _ACROSS if self.same else pairs)
        down = min(shape[0], pairs // across) if self.same else 1
        block = down * across * one
        return Tiling(down, across, block, min(block, max(elements, block // height)))

    def _pairs(self, rows: torch.Tensor, columns: torch.Tensor, cache: int) -> list[torch.Tensor]:
        """Return NNGP and NTK, shape [n, m] each; if both are the same tensor, on and above the diagonal alone."""
        tiling = self._tiling(rows.shape, len(columns), rows.element_size(), cache)
        opposite = bool((rows < 0).any()) or bool((columns < 0).any())
        return Propagation(self, tiling, rows, opposite).pairs(rows, columns, columns is rows)
