"""Random streams: one per seed and purpose, so that drawing more from one never changes another."""

from __future__ import annotations

import functools
import hashlib
from typing import Literal

from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.types import Tree

LARGEST_SEED = 2**63 - 1
"""Rows hold seeds as 64-bit integers."""


def stream_seed(seed: int, purpose: str) -> int:
    """Return the seed of the stream of `purpose`, a 63-bit integer."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the random stream of `purpose` under `seed`."""
    stream = torch.Generator(device=device)
    stream.manual_seed(stream_seed(seed, purpose))
    return stream


def perturbation(like: Tree, noise: Literal["gaussian", "sign"], stream: torch.Generator) -> Tree:
    """Return standard Gaussian noise, or random signs, shaped as `like`.

    Gaussian noise is drawn leaf by leaf in the order of the names; signs are drawn for all leaves at once, in that order.
    """
    return _signs(like, stream) if noise == "sign" else tree.tree_map(lambda leaf: _gaussian(leaf, stream), like)


def _gaussian(leaf: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
    return torch.randn(leaf.shape, generator=stream, dtype=leaf.dtype, device=leaf.device)


def _signs(like: Tree, stream: torch.Generator) -> Tree:
    """Return signs, the leaves views of one vector; 64 of them from one integer: many times as fast as the signs of Gaussian noise."""
    leaves = list(like.values())
    sizes = [leaf.numel() for leaf in leaves]
    dtype, device = leaves[0].dtype, leaves[0].device
    drawn = torch.empty(sum(sizes) // 64 + 1, dtype=torch.int64, device=device).random_(
        -(2**63), None, generator=stream
    )
    eights = _signs_of_bytes(dtype, device).index_select(0, drawn.view(torch.uint8).to(torch.int32))
    pieces = eights.view(-1)[: sum(sizes)].split(sizes)
    return {name: piece.view_as(leaf).to(leaf) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}


@functools.cache
def _signs_of_bytes(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the bits of 0, ..., 255 as signs, shape [256, 8]."""
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return (2 * bits - 1).to(device, dtype)
