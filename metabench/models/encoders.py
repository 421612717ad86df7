"""Encoders of tokens that see both ways, as pure functions that may be cut after a block, and all named ones of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from metabench.core.errors import MetabenchError
from metabench.core.registry import Registry, pick
from metabench.core.types import Tree
from metabench.models.named import NamedModel, check_made, models_of

if TYPE_CHECKING:
    import torch

PADDING = 0
"""The token that fills short sequences up; it is never attended to."""


class Encoder(Protocol):
    """From tokens to hidden states, in blocks."""

    width: int
    """Of the hidden states."""
    blocks: int
    """Number of blocks."""

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return parameters drawn from the generator, or trained ones; the same in every dtype up to rounding."""

    def __call__(
        self, params: Tree, tokens: torch.Tensor, after: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return the last hidden states [n, length, width] of tokens [n, length], int64, `PADDING` behind the last.

        `change` is applied to the hidden states after block number `after`; after 0, to the embedding.
        """


class NamedEncoder(NamedModel):
    """An encoder: `make(vocabulary, weights, device)` returns an `Encoder`.

    `vocabulary` is the number of tokens, `PADDING` one of them; `weights` the folder of trained weights, or None for random ones.
    """


ENCODERS: Registry[NamedEncoder] = models_of(NamedEncoder, "encoder", "metabench.encoders")


def encoder(size: str, vocabulary: int, weights: Path | None, device: torch.device) -> Encoder:
    """Return the encoder of a named size.

    Raises:
        MetabenchError: no encoder has that name, what is made is none, or it cannot be made.
    """
    made: Encoder = pick("size", size, ENCODERS.loaded()).make(vocabulary, weights, device)
    check_made(made, size, ("initial", "width", "blocks"), "a metabench.models.encoders.Encoder")
    return made


def no_weights(size: str, weights: Path | None) -> None:
    """Raise MetabenchError if weights are given to an encoder that has none to load."""
    if weights is not None:
        raise MetabenchError(
            f"the encoder '{size}' begins with random parameters, and a folder of weights is given: {weights}; leave the option out"
        )
