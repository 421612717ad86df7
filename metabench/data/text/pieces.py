"""Words as tokens: their characters, or the pieces that a trained tokeniser cuts them into; and labelled examples as arrays."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from metabench.core.errors import MetabenchError
from metabench.data.languages import Examples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

UNLABELLED = -100
"""In place of a label, behind the last word of an example: ignored by the loss."""


class Pieces(Protocol):
    """From words to tokens; 0 is no token but padding."""

    vocabulary: int
    """Number of tokens, with padding."""
    unseen: int
    """The token of what was never seen."""
    before: tuple[int, ...]
    """Tokens with which every example begins."""
    between: tuple[int, ...]
    """Tokens between two words."""
    behind: tuple[int, ...]
    """Tokens with which every example ends."""

    def of(self, word: str) -> list[int]:
        """Return the tokens of a word, one or more."""


class Characters:
    """A token for each character of some words, one for all others, and one for the space between words."""

    unseen: int = 1
    before: tuple[int, ...] = ()
    between: tuple[int, ...] = (2,)
    behind: tuple[int, ...] = ()

    def __init__(self, words: Iterable[str]) -> None:
        self._number = {character: i for i, character in enumerate(sorted(set("".join(words))), start=3)}
        self.vocabulary = 3 + len(self._number)

    def of(self, word: str) -> list[int]:
        """Return a token for each character."""
        return [self._number.get(character, self.unseen) for character in word] or [self.unseen]


class TrainedPieces:
    """The pieces of the tokeniser in the file tokenizer.json beside a trained encoder, each number plus one.

    Raises:
        MetabenchError: the library `tokenizers` is not installed, or the file is missing or none.
    """

    between: tuple[int, ...] = ()

    def __init__(self, folder: Path) -> None:
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError as error:
            raise MetabenchError(
                "a trained encoder needs the library tokenizers, which is not installed: pip install 'metabench[nlp]'"
            ) from error
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise MetabenchError(
                f"there is no file {path}: put the tokeniser beside the weights, as save_pretrained does"
            )
        try:
            self._tokeniser = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise MetabenchError(f"{path} is no tokeniser: {error}") from error
        self.vocabulary = self._tokeniser.get_vocab_size() + 1
        self.before, self.behind = (self._special(mark) for mark in ("<s>", "</s>"))
        # A word of which a part is hidden is the task of XLM-R's own training.
        self.unseen = next(iter(self._special("<mask>") or self._special("<unk>")), 1)

    def _special(self, mark: str) -> tuple[int, ...]:
        found = self._tokeniser.token_to_id(mark)
        return () if found is None else (found + 1,)

    def of(self, word: str) -> list[int]:
        """Return the numbers of the word's pieces."""
        found = self._tokeniser.encode(word, add_special_tokens=False).ids
        return [number + 1 for number in found] or list(self.before)


@dataclass(frozen=True)
class Encoded:
    """Examples as arrays, and which example each row is of: one that is too long is cut between words into several rows.

    Attributes:
        tokens: int64 [rows, length], 0 behind the last.
        words: int64 [rows, length]: of each token the number of its word in the row, from 1; 0 for a token of no word.
        labels: int64 [rows, most words of a row], `UNLABELLED` behind the last.
        example: int64 [rows].
    """

    tokens: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    example: npt.NDArray[np.int64]


def encoded(parts: Mapping[str, Examples], pieces: Pieces, length: int) -> dict[str, Encoded]:
    """Return the examples of each part as arrays; all parts have the same length, at most `length`, and the same number of words.

    A word longer than `length` is cut off there.

    Raises:
        MetabenchError: `length` has no room for a token between those with which every example begins and ends.
    """
    import numpy as np

    room = length - len(pieces.before) - len(pieces.behind)
    if room < 1:
        raise MetabenchError(
            f"a length of {length} tokens has no room for a word: expected {length - room + 1} or more"
        )
    cut = {name: list(_rows(examples, pieces, room)) for name, examples in parts.items()}
    every = [row for rows in cut.values() for row in rows]
    longest, most = max(len(row.tokens) for row in every), max(len(row.labels) for row in every)

    def filled(rows: Sequence[Sequence[int]], to: int, by: int) -> npt.NDArray[np.int64]:
        found = np.full((len(rows), to), by, dtype=np.int64)
        for i, row in enumerate(rows):
            found[i, : len(row)] = row
        return found

    return {
        name: Encoded(
            filled([row.tokens for row in rows], longest, 0),
            filled([row.words for row in rows], longest, 0),
            filled([row.labels for row in rows], most, UNLABELLED),
            np.array([row.example for row in rows], dtype=np.int64),
        )
        for name, rows in cut.items()
    }


@dataclass
class _Row:
    example: int
    tokens: list[int]
    words: list[int]
    labels: list[int]


def _rows(examples: Examples, pieces: Pieces, room: int) -> Iterator[_Row]:
    for number, (words, labels) in enumerate(zip(examples.words, examples.labels, strict=True)):
        row = _Row(number, [], [], [])
        for word, label in zip(words, labels, strict=True):
            tokens = pieces.of(word)[:room]
            between = pieces.between if row.tokens else ()
            if row.tokens and len(row.tokens) + len(between) + len(tokens) > room:
                yield _ended(row, pieces)
                row, between = _Row(number, [], [], []), ()
            row.labels.append(label)
            row.tokens += [*between, *tokens]
            row.words += [*(0 for _ in between), *(len(row.labels) for _ in tokens)]
        yield _ended(row, pieces)


def _ended(row: _Row, pieces: Pieces) -> _Row:
    before, behind = pieces.before, pieces.behind
    return _Row(
        row.example,
        [*before, *row.tokens, *behind],
        [*(0 for _ in before), *row.words, *(0 for _ in behind)],
        row.labels,
    )
