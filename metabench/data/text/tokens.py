"""Text as tokens: every byte its own, or pairs of bytes merged by a small vocabulary learned on the training text.

Both tokenisers take any bytes, whatever their encoding, and lose none: a span of text may begin and end in the middle
of a character. Losses on tokens become bits per byte by `bits_per_byte`, which compares vocabularies fairly.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError, unknown

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]

BYTES = 256
"""Vocabulary of the bytes alone; the ids 0 to 255 are the bytes themselves in every tokeniser."""

SHORTEST = 1_000
"""Bytes of text below which no merges are learned."""

NAMES = ("bytes", "bpe")


class Tokeniser(Protocol):
    """Bytes to ids. `vocabulary` counts the ids; `bytes_of`, [vocabulary], counts the bytes of each token."""

    @property
    def vocabulary(self) -> int: ...

    @property
    def bytes_of(self) -> Ids: ...

    def encode(self, text: Bytes) -> Ids:
        """Return the ids of `text`, uint8 of shape [n]: int64 of shape [m], m <= n."""
        ...


class SingleBytes:
    """Every byte is a token: nothing to learn, 256 ids."""

    vocabulary = BYTES

    def __init__(self) -> None:
        self.bytes_of: Ids = np.ones(BYTES, dtype=np.int64)

    def encode(self, text: Bytes) -> Ids:
        return _checked_text(text).astype(np.int64)


class BytePairs:
    """Byte-pair encoding (Sennrich et al. 2016, section 3.2) on bytes: the most common pair becomes a token, repeatedly.

    No merge crosses a piece: a word, a number of up to three digits, punctuation, each with the space before it, or a
    run of white space. The library merges characters; so each byte is passed as the character of the same number.
    """

    def __init__(self, vocabulary: int, train_text: Bytes) -> None:
        """Learn the merges on `train_text`.

        Raises:
            MetabenchError: the library is missing; the text is too short, or does not repeat itself enough for
                `vocabulary` tokens (the message says how many there are).
        """
        pieces = _pieces(_checked_text(train_text).tobytes())
        if len(train_text) < SHORTEST:
            raise MetabenchError(
                f"tokeniser 'bpe': a training text of {len(train_text):,} bytes is too short to learn from, expected at "
                f"least {SHORTEST:,}; use the tokeniser 'bytes'"
            )
        self._model = _trained(vocabulary, pieces)
        learned = self._model.get_vocab_size()
        if learned < vocabulary:
            raise MetabenchError(
                f"tokeniser 'bpe': a vocabulary of {vocabulary:,} is more than the {len(train_text):,} bytes of training "
                f"text can give: {learned:,} tokens were learned before no pair occurred twice; choose at most {learned:,}"
            )
        by_id = sorted(self._model.get_vocab().items(), key=lambda entry: entry[1])
        self.vocabulary = len(by_id)
        self.bytes_of: Ids = np.array([len(token) for token, _ in by_id], dtype=np.int64)
        self._known: dict[bytes, Ids] = {}

    def encode(self, text: Bytes) -> Ids:
        pieces = _pieces(_checked_text(text).tobytes())
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._known]
        for piece, found in zip(new, self._model.encode_batch_fast([_letters(piece) for piece in new]), strict=True):
            self._known[piece] = np.array(found.ids, dtype=np.int64)
        return np.concatenate([np.empty(0, dtype=np.int64), *(self._known[piece] for piece in pieces)])


def tokeniser(name: str, vocabulary: int = BYTES, train_text: Bytes | None = None) -> Tokeniser:
    """Return a tokeniser: "bytes", or "bpe" with `vocabulary` tokens learned on `train_text`, uint8 of shape [n].

    The same training text and vocabulary give the same tokens, on every machine; they are learned once per process.
    Pass the training span alone: a vocabulary learned on more has seen test data.

    Raises:
        MetabenchError: an unknown name; a vocabulary that is not 256 for "bytes", or below 256 or beyond what the text
            can give for "bpe"; no text or too short a text for "bpe"; the library `tokenizers` is not installed.
    """
    if name not in NAMES:
        raise unknown("tokeniser", name, NAMES)
    if vocabulary < BYTES:
        raise MetabenchError(
            f"tokeniser '{name}': a vocabulary of {vocabulary} cannot hold every byte; at least {BYTES}"
        )
    if name == "bytes":
        if vocabulary != BYTES:
            raise MetabenchError(
                f"tokeniser 'bytes' has a vocabulary of {BYTES}, got {vocabulary:,}; 'bpe' learns larger ones"
            )
        return SingleBytes()
    if train_text is None:
        raise MetabenchError("tokeniser 'bpe' learns its vocabulary: give it a training text")
    key = (hashlib.sha256(_checked_text(train_text).tobytes()).hexdigest(), vocabulary)
    if key not in _LEARNED:
        _LEARNED[key] = BytePairs(vocabulary, train_text)
    return _LEARNED[key]


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Return the bits per byte of a text of `n_bytes` bytes whose tokens' losses sum to `nats`."""
    return nats / math.log(2) / n_bytes


_LEARNED: dict[tuple[str, int], BytePairs] = {}

# Bytes beyond ASCII are parts of letters in UTF-8, and mostly letters elsewhere. The alternatives cover every byte, and
# white space leaves its last space to the word that follows.
_PIECE = re.compile(
    rb" ?[A-Za-z\x80-\xff]+| ?[0-9]{1,3}| ?[^\sA-Za-z0-9\x80-\xff]+|\s+(?!\S)|\s+",
)


def _pieces(text: bytes) -> list[bytes]:
    return _PIECE.findall(text)


def _letters(piece: bytes) -> str:
    return piece.decode("latin-1")


def _trained(vocabulary: int, pieces: Iterable[bytes]):  # type: ignore[no-untyped-def]  # of an optional library
    try:
        from tokenizers import Tokenizer, models, trainers
    except ImportError as error:
        raise MetabenchError(
            "tokeniser 'bpe' needs the library tokenizers, which is not installed: pip install 'metabench[text]'"
        ) from error
    model = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=[chr(byte) for byte in range(BYTES)],
    )
    model.train_from_iterator((_letters(piece) for piece in pieces), trainer)
    return model


def _checked_text(text: Bytes) -> Bytes:
    if text.dtype != np.uint8 or text.ndim != 1:
        raise MetabenchError(f"expected text as uint8 of shape [n], got {text.dtype} of shape {list(text.shape)}")
    return text
