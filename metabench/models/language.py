"""What all language-model problems share: options, sequences drawn from tokens, and next-token losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.options import option
from metabench.core.problem import Problem
from metabench.core.randomness import generator
from metabench.core.registry import Registry, pick
from metabench.core.segments import LOSS, Segment, chain_loss
from metabench.core.types import Batch, Tree
from metabench.models.attention_block import HIDDEN
from metabench.models.named import LanguageModel, NamedLanguageModel, check_made, models_of
from metabench.models.transformer import TOKENS, Head

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

AT_ONCE = 8192
"""Tokens evaluated at a time."""


@dataclass(frozen=True)
class LanguageOptions:
    """Options of every language-model problem: its text and its shape."""

    tokeniser: str = option(
        "bytes", choices=("bytes", "bpe"), help="every byte a token, or merges learned on the training text"
    )
    vocabulary: int = option(0, minimum=0, help="tokens of the tokeniser; 0 for 256 bytes, or 1024 with merges")
    sequence: int = option(64, minimum=1, help="tokens predicted per sequence")
    batch: int = option(16, minimum=1, help="sequences in an inner and in an outer batch")
    blocks: int = option(0, minimum=0, help="of the model; 0 for that of the size")
    width: int = option(0, minimum=0, help="of its residual stream; 0 for that of the size")
    heads: int = option(0, minimum=0, help="of its attention; 0 for that of the size")
    hidden: int = option(0, minimum=0, help="width of its MLPs; 0 for that of the size, or four times the width given")
    compute: str = option(
        "", choices=("", "bfloat16"), help="dtype of its arithmetic; empty for that of the parameters"
    )
    evaluated: int = option(256, minimum=1, help="sequences of the held-out text used by the metric, evenly spread")


LANGUAGE_MODELS: Registry[NamedLanguageModel] = models_of(
    NamedLanguageModel, "language model", "metabench.language_models"
)
_PARTS = ("initial", "shapes", "body", "head", "head_names", "vocabulary")


def language_model(size: str, vocabulary: int, options: LanguageOptions) -> LanguageModel:
    """Return the model of a named size for a vocabulary of this size, modified by the options.

    Raises:
        MetabenchError: no size has that name, what is made is no language model, or the options do not fit it.
    """
    model: LanguageModel = pick("size", size, LANGUAGE_MODELS.loaded()).make(vocabulary, options.compute)
    check_made(
        model, size, _PARTS, "a network that is a chain of segments, as metabench.models.transformer.Transformer"
    )
    given = {key: getattr(options, key) for key in ("blocks", "width", "heads", "hidden") if getattr(options, key)}
    if not given:
        return model
    fields = [field.name for field in dataclasses.fields(model)] if dataclasses.is_dataclass(model) else []
    for key in given:
        if key not in fields:
            raise MetabenchError(
                f"model '{size}', a {type(model).__name__}, has no '{key}' to set: leave the option out"
            )
    if "width" in given and "hidden" in fields:
        given.setdefault("hidden", 4 * given["width"])
    return dataclasses.replace(model, **given)


def drawn(tokens: torch.Tensor, count: int, sequence: int, stream: torch.Generator) -> Batch:
    """Return a batch of `count` sequences and the token after each, int64 [count, sequence + 1], from random places.

    `tokens` is of shape [m], m > sequence; the stream is on the CPU, wherever the tokens are.
    """
    starts = torch.randint(len(tokens) - sequence, (count,), generator=stream)
    return {TOKENS: _cut(tokens, starts, sequence)}


def spread(tokens: torch.Tensor, count: int, sequence: int) -> torch.Tensor:
    """Return up to `count` sequences that do not overlap, evenly spread over `tokens`, each with the token after it."""
    whole = (len(tokens) - 1) // sequence
    chosen = torch.arange(min(count, whole)) * whole // min(count, whole)
    return _cut(tokens, chosen * sequence, sequence)


def _cut(tokens: torch.Tensor, starts: torch.Tensor, sequence: int) -> torch.Tensor:
    return tokens[(starts[:, None] + torch.arange(sequence + 1)).to(tokens.device)]


def token_losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every token after the first, in nats: [n, sequence], for logits [n, sequence, vocabulary]."""
    targets = tokens[:, 1:]
    found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return found.view(targets.shape)


class ChainProblem(Problem):
    """A problem of which both losses are chains of segments; a subclass sets the two, and the model, when it is made."""

    _model: LanguageModel
    _inner_segments: tuple[Segment, ...]
    _outer_segments: tuple[Segment, ...]

    def _initial_params(self) -> Tree:
        """Return the model's parameters, drawn from the seed."""
        params = self._model.initial(generator(self.setting.seed, "initial params"), self.setting.dtype)
        return {name: leaf.to(self.setting.device) for name, leaf in params.items()}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f, segment by segment."""
        return chain_loss(self._inner_segments, params, meta, batch)

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return F, segment by segment."""
        return chain_loss(self._outer_segments, params, meta, batch)

    def inner_segments(self) -> tuple[Segment, ...]:
        """Return f as a chain: the embedding, each block, and the head with the loss."""
        return self._inner_segments

    def outer_segments(self) -> tuple[Segment, ...]:
        """Return F as a chain."""
        return self._outer_segments


@dataclass(frozen=True)
class NextToken:
    """The mean cross-entropy of the next token, in nats: the function of a last segment."""

    head: Head

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return the loss."""
        del meta
        logits = self.head(params, hidden[HIDDEN])
        return {LOSS: torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[TOKENS][:, 1:].flatten())}


def next_token_segments(model: LanguageModel) -> tuple[Segment, ...]:
    """Return the mean next-token cross-entropy as a chain."""
    return (*model.body(), Segment("head and loss", NextToken(model.head), model.head_names(), batch=(TOKENS,)))


def nats_and_bytes(
    model: LanguageModel, params: Tree, tokens: torch.Tensor, bytes_of: npt.NDArray[np.int64]
) -> tuple[float, int]:
    """Return the summed cross-entropy of the tokens after the first of each sequence, and the bytes that these stand for."""
    count = max(1, AT_ONCE // (tokens.shape[1] - 1))
    with torch.no_grad():
        pieces = [token_losses(model(params, some[:, :-1]), some) for some in tokens.split(count)]
    nats = sum(float(piece.double().sum()) for piece in pieces)
    return nats, int(torch.as_tensor(bytes_of)[tokens[:, 1:].cpu()].sum())
