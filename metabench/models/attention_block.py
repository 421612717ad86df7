"""A block of causal attention with rotary positions and of a GELU MLP, written for second derivatives.

Every operation has a second derivative and a forward-mode one; fused attention kernels have neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import Batch, Tree

HIDDEN = "hidden"
"""What the blocks hand on: the residual stream, shape [n, sequence, width]."""

BASE = 10_000.0
"""Of the rotary frequencies. Su et al. 2021, section 3.2.2."""


def cast(values: torch.Tensor, compute: str) -> torch.Tensor:
    """Return values in the dtype named `compute`; unchanged if the name is empty."""
    return values.to(getattr(torch, compute)) if compute else values


def norm(params: Tree, name: str, stream: torch.Tensor, compute: str) -> torch.Tensor:
    """Return the layer norm of the residual stream, scaled and shifted, in the dtype `compute`."""
    scale, shift = cast(params[f"{name}.scale"], compute), cast(params[f"{name}.shift"], compute)
    return torch.nn.functional.layer_norm(cast(stream, compute), stream.shape[-1:], scale, shift)


@dataclass(frozen=True)
class Block:
    """A pre-norm block, a segment's function. Blocks of the same sizes are equal.

    Attributes:
        width: of the residual stream.
        heads: of attention; each has width / heads features, an even number.
        hidden: width of the MLP.
        compute: dtype of the arithmetic, "" for that of the stream. The stream itself is summed in its own dtype.
    """

    width: int
    heads: int
    hidden: int
    compute: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by its name within the block."""
        width = self.width
        return {
            "norm1.scale": (width,),
            "norm1.shift": (width,),
            "qkv.weight": (3 * width, width),
            "out.weight": (width, width),
            "norm2.scale": (width,),
            "norm2.shift": (width,),
            "up.weight": (self.hidden, width),
            "down.weight": (width, self.hidden),
        }

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the residual stream after attention and MLP."""
        del meta, batch
        stream = hidden[HIDDEN]
        stream = stream + self._attention(params, norm(params, "norm1", stream, self.compute)).to(stream.dtype)
        normed = norm(params, "norm2", stream, self.compute)
        inside = torch.nn.functional.gelu(self._linear(params, "up", normed))
        return {HIDDEN: stream + self._linear(params, "down", inside).to(stream.dtype)}

    def _attention(self, params: Tree, normed: torch.Tensor) -> torch.Tensor:
        n, length, _ = normed.shape
        size = self.width // self.heads
        joint = self._linear(params, "qkv", normed).view(n, length, 3, self.heads, size)
        # Values in memory of their own: what is not turned yet is of no use behind, and would stay with them.
        parts = joint.permute(2, 0, 3, 1, 4)
        values = parts[2].reshape(n * self.heads, length, size)
        queries, keys = rotated(parts[:2].reshape(2, n * self.heads, length, size), scale=size**-0.5).unbind()
        later = torch.full((length, length), -math.inf, dtype=queries.dtype, device=queries.device).triu(1)
        # One call, so that scores with and without what comes later never stand side by side.
        mixed = torch.baddbmm(later, queries, keys.transpose(1, 2)).softmax(-1) @ values
        joined = mixed.view(n, self.heads, length, size).transpose(1, 2).reshape(n, length, self.width)
        return self._linear(params, "out", joined)

    def _linear(self, params: Tree, name: str, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, cast(params[f"{name}.weight"], self.compute))


def rotated(turning: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return queries and keys turned by their places, shape [2, ..., length, size] as given; the queries times `scale`.

    Feature i and feature i + size/2 at place t are turned as a pair by the angle t BASE^(-2i/size). Su et al. 2021, equation 34.
    """
    length, size = turning.shape[-2:]
    # Angles of hundreds of turns need more digits than bfloat16 has.
    place = {"device": turning.device, "dtype": torch.float64 if turning.dtype == torch.float64 else torch.float32}
    frequency = torch.exp(torch.arange(0, size, 2, **place) * (-math.log(BASE) / size))
    angle = torch.arange(length, **place)[:, None] * frequency
    cosine, sine = (
        torch.stack([scale * part, part]).view(2, *[1] * (turning.dim() - 3), length, size // 2).to(turning.dtype)
        for part in (angle.cos(), angle.sin())
    )
    first, second = turning.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
