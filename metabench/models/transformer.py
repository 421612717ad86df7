"""Causal transformers as pure functions of a parameter tree, whole or as a chain of segments, and their named sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.segments import Segment
from metabench.core.types import Batch, Tree
from metabench.models.attention_block import HIDDEN, Block, cast, norm
from metabench.models.named import NamedLanguageModel

TOKENS = "tokens"
"""The tensor of a batch that holds the sequences: int64, shape [n, sequence + 1]; the last column is predicted and never read."""


@dataclass(frozen=True)
class Size:
    """A named size: its minimum vocabulary, and the shape of its blocks."""

    rows: int
    width: int
    heads: int
    blocks: int
    hidden: int
    tied: bool = False

    @property
    def title(self) -> str:
        """One line for listings."""
        return (
            f"causal transformer, {self.blocks} blocks of width {self.width}, {self.heads} heads, "
            f"{self.rows:,} rows of vocabulary"
        )

    def model(self, vocabulary: int, compute: str = "") -> Transformer:
        """Return the model of this size, with `vocabulary` rows or the size's own number of rows, whichever is larger."""
        rows = max(self.rows, vocabulary)
        return Transformer(rows, self.width, self.heads, self.blocks, self.hidden, compute, self.tied)


SIZES: Mapping[str, Size] = {
    "100k": Size(256, 48, 3, 3, 160),
    "1M": Size(256, 128, 4, 5, 480),
    "2M": Size(256, 128, 4, 10, 512),
    "5M": Size(256, 224, 7, 8, 896),
    "10M": Size(256, 320, 10, 8, 1280),
    "20M": Size(256, 448, 7, 8, 1792),
    # After Hoffmann et al. 2022, table A9: their widths, heads of 64, a hidden layer of four widths, and one matrix of 32,000 rows that
    # embeds and unembeds. Their relative positions have a matrix in every block; rotary ones have none, so there are more blocks here.
    "44M": Size(32_000, 512, 8, 9, 2048, tied=True),
    "57M": Size(32_000, 576, 9, 10, 2304, tied=True),
    "90M": Size(32_000, 640, 10, 14, 2560, tied=True),
    "140M": Size(32_000, 768, 12, 16, 3072, tied=True),
    "244M": Size(32_000, 1024, 16, 17, 4096, tied=True),
    "489M": Size(32_000, 1280, 20, 23, 5120, tied=True),
    "1B": Size(32_000, 1792, 28, 24, 7168, tied=True),
}
"""Named sizes. A name is the number of parameters within 3 %, with the size's own vocabulary."""


@dataclass(frozen=True)
class Embedding:
    """Looks up the tokens, all but the last of each sequence: the first segment's function."""

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the residual stream before the first block."""
        del meta, hidden
        return {HIDDEN: torch.nn.functional.embedding(batch[TOKENS][:, :-1], params["weight"])}


@dataclass(frozen=True)
class Head:
    """Final norm and unembedding. A problem's last segment calls it, then computes the loss."""

    compute: str = ""

    def __call__(self, params: Tree, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [n, sequence, vocabulary] for the residual stream [n, sequence, width]; parameters by the head's own names."""
        normed = norm(params, "norm", hidden, self.compute)
        return torch.nn.functional.linear(normed, cast(params["weight"], self.compute)).to(hidden.dtype)


@dataclass(frozen=True)
class Transformer:
    """Embedding, pre-norm blocks of causal attention with rotary positions and of a GELU MLP, final norm, unembedding.

    Vaswani et al. 2017; rotary positions: Su et al. 2021; pre-norm: Xiong et al. 2020. Only the norms have shifts.

    Attributes:
        vocabulary: number of tokens.
        width: of the residual stream.
        heads: of attention; each has width / heads features, an even number.
        blocks: number of blocks.
        hidden: width of a block's MLP.
        compute: dtype of the arithmetic in the blocks and of the unembedding's product: "" for that of the parameters, or
            "bfloat16". The residual stream, the logits returned, and so the loss and every gradient, keep the parameters' dtype.
        tied: whether the embedding's matrix unembeds too; there is no "head.weight" then.

    Raises:
        MetabenchError: the heads do not divide the width into even numbers of features.
    """

    vocabulary: int
    width: int
    heads: int
    blocks: int
    hidden: int
    compute: str = ""
    tied: bool = False

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            near = max(1, round(self.width / (2 * self.heads))) * 2 * self.heads
            raise MetabenchError(
                f"a width of {self.width} is not {self.heads} heads of an even number of features each: try a width of {near}"
            )

    @property
    def block(self) -> Block:
        """The function of every block."""
        return Block(self.width, self.heads, self.hidden, self.compute)

    @property
    def head(self) -> Head:
        """What makes logits of the last block's output."""
        return Head(self.compute)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in the order of the tree."""
        found = {"embed.weight": (self.vocabulary, self.width)}
        for i in range(self.blocks):
            found |= {f"block{i}.{name}": shape for name, shape in self.block.shapes().items()}
        found |= {"head.norm.scale": (self.width,), "head.norm.shift": (self.width,)}
        return found if self.tied else found | {"head.weight": (self.vocabulary, self.width)}

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters drawn as Nguyen & Salazar 2019; weights that add to the residual stream are smaller by sqrt(2 blocks).

        Always drawn in float64, then rounded: the same in every dtype.
        """
        spread = math.sqrt(2 / (5 * self.width))
        params: Tree = {}
        for name, shape in self.shapes().items():
            if name.endswith((".scale", ".shift")):
                params[name] = torch.full(shape, float(name.endswith(".scale")), dtype=dtype)
                continue
            # By its own number of inputs: with a hidden layer of four widths this is half the spread of the others.
            by = spread * math.sqrt(self.width / shape[-1])
            if name.endswith(("out.weight", "down.weight")):
                by /= math.sqrt(2 * self.blocks)
            params[name] = (torch.randn(shape, generator=generator, dtype=torch.float64) * by).to(dtype)
        return params

    def __call__(self, params: Tree, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [n, sequence, vocabulary] for tokens [n, sequence]: those at each place predict the next token."""
        hidden = {HIDDEN: torch.nn.functional.embedding(tokens, params["embed.weight"])}
        for segment in self.body()[1:]:
            hidden = segment(params, {}, {}, hidden)
        return self.head({own: params[name] for own, name in self.head_names()}, hidden[HIDDEN])

    def body(self) -> tuple[Segment, ...]:
        """Return the embedding and the blocks as segments; they read `tokens` of the batch and hand on `hidden`.

        Equal blocks have equal functions. A problem appends the segment of its loss, which calls `head`.
        """
        embed = Segment("embedding", Embedding(), (("weight", "embed.weight"),), batch=(TOKENS,))
        blocks = [
            Segment(f"block {i}", self.block, tuple((name, f"block{i}.{name}") for name in self.block.shapes()))
            for i in range(self.blocks)
        ]
        return (embed, *blocks)

    def head_names(self) -> tuple[tuple[str, str], ...]:
        """Return the parameters of the head as a segment lists them: (name within, name in the tree) each."""
        weight = "embed.weight" if self.tied else "head.weight"
        return (("norm.scale", "head.norm.scale"), ("norm.shift", "head.norm.shift"), ("weight", weight))


TRANSFORMERS = tuple(
    NamedLanguageModel(name, size.title, "transformer", size.model, order)
    for order, (name, size) in enumerate(SIZES.items())
)
