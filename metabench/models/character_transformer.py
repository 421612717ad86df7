"""Transformers on characters that attend to both sides, and their named sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.attention_block import Block, norm, rotated
from metabench.models.encoders import PADDING, NamedEncoder, no_weights

ROWS = 4096
"""Rows of the table that embeds runs of characters."""

_RUNS = (2, 3, 4)
_FACTORS = (1, 31, 1_009, 32_749)
"""From the numbers of a run's characters to a row, modulo `ROWS`: primes, of which no two runs of one length are alike."""


@dataclass(frozen=True)
class TwoWayBlock(Block):
    """A pre-norm block whose attention goes to both sides, except to padding."""

    def states(self, params: Tree, stream: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Return the residual stream [n, length, width] after attention and MLP; `masked` is added to scores, [n, 1, 1, length]."""
        n, length, _ = stream.shape
        size = self.width // self.heads
        joint = self._linear(params, "qkv", norm(params, "norm1", stream, "")).view(n, length, 3, self.heads, size)
        queries, keys, values = joint.permute(2, 0, 3, 1, 4)
        queries, keys = rotated(torch.stack([queries, keys]), scale=size**-0.5).unbind()
        mixed = (queries @ keys.transpose(-1, -2) + masked).softmax(-1) @ values
        stream = stream + self._linear(params, "out", mixed.transpose(1, 2).reshape(n, length, self.width))
        inside = torch.nn.functional.gelu(self._linear(params, "up", norm(params, "norm2", stream, "")))
        return stream + self._linear(params, "down", inside)


@dataclass(frozen=True)
class CharacterTransformer:
    """Embedding of characters and of runs of them, pre-norm blocks with rotary positions, final norm.

    To the embedding of a character those of the runs of two to four that begin with it are added, found in one table by a hash, as those of
    fastText (Bojanowski et al. 2017). They begin at zero, so that a run never seen says nothing: what tells a name's kind are pieces
    of words, which few examples do not teach a transformer.

    Attributes:
        vocabulary: number of tokens, `PADDING` one of them.
        width: of the residual stream.
        heads: of attention; each has width / heads features, an even number.
        blocks: number of blocks.
        hidden: width of a block's MLP.
    """

    vocabulary: int
    width: int
    heads: int
    blocks: int
    hidden: int

    @property
    def block(self) -> TwoWayBlock:
        """The function of every block."""
        return TwoWayBlock(self.width, self.heads, self.hidden)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in the order of the tree."""
        found: dict[str, tuple[int, ...]] = {
            "embed.weight": (self.vocabulary, self.width),
            "runs.weight": (ROWS, self.width),
        }
        for i in range(self.blocks):
            found |= {f"block{i}.{name}": shape for name, shape in self.block.shapes().items()}
        return found | {"norm.scale": (self.width,), "norm.shift": (self.width,)}

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters as `Transformer.initial` draws them, but the embedding with entries of variance 1 / width."""
        params: Tree = {}
        for name, shape in self.shapes().items():
            if name.endswith((".scale", ".shift")):
                params[name] = torch.full(shape, float(name.endswith(".scale")), dtype=dtype)
                continue
            if name == "runs.weight":
                params[name] = torch.zeros(shape, dtype=dtype)
                continue
            by = math.sqrt((1.0 if name == "embed.weight" else 0.4) / shape[-1])
            if name.endswith(("out.weight", "down.weight")):
                by /= math.sqrt(2 * self.blocks)
            params[name] = (torch.randn(shape, generator=generator, dtype=torch.float64) * by).to(dtype)
        return params

    def __call__(
        self, params: Tree, tokens: torch.Tensor, after: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return the last hidden states; `metabench.models.encoders.Encoder` says of what."""
        stream = torch.nn.functional.embedding(tokens, params["embed.weight"])
        for row in _rows(tokens):
            stream = stream + torch.nn.functional.embedding(row, params["runs.weight"])
        masked = torch.where(tokens == PADDING, -1e4, 0.0).to(stream.dtype)[:, None, None]
        names = self.block.shapes()
        for i in range(self.blocks + 1):
            if i:
                stream = self.block.states({name: params[f"block{i - 1}.{name}"] for name in names}, stream, masked)
            if i == after:
                stream = change(stream)
        return norm(params, "norm", stream, "")


def _rows(tokens: torch.Tensor) -> list[torch.Tensor]:
    """Return for each length of run the row of the one that begins at each place, [n, length]; behind the end is padding."""
    longest = torch.nn.functional.pad(tokens, (0, _RUNS[-1] - 1), value=PADDING).unfold(1, _RUNS[-1], 1)
    parts = longest * torch.tensor(_FACTORS, device=tokens.device)
    return [(parts[..., :run].sum(-1) + run) % ROWS for run in _RUNS]


@dataclass(frozen=True)
class Size:
    """Width, heads, blocks, and width of the MLPs."""

    width: int
    heads: int
    blocks: int

    @property
    def title(self) -> str:
        """One line for listings."""
        return f"transformer on characters, {self.blocks} blocks of width {self.width}, {self.heads} heads"


SIZES: Mapping[str, Size] = {
    "chars-32": Size(32, 2, 2),
    "chars-64": Size(64, 4, 2),
    "chars-128": Size(128, 4, 3),
    "chars-256": Size(256, 8, 4),
}


def _made(size: str, vocabulary: int, weights: Path | None, device: torch.device) -> CharacterTransformer:
    del device
    no_weights(size, weights)
    shape = SIZES[size]
    return CharacterTransformer(vocabulary, shape.width, shape.heads, shape.blocks, 4 * shape.width)


CHARACTER_TRANSFORMERS = tuple(
    NamedEncoder(name, size.title, "character transformer", functools.partial(_made, name), order)
    for order, (name, size) in enumerate(SIZES.items())
)
