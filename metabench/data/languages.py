"""Labelled text in several languages: what tasks across languages load as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from metabench.core.errors import MetabenchError, unknown

Score = Literal["macro F1", "accuracy", "span F1"]
"""How an answer is judged: the mean over classes of their F1, the share of words, or the F1 of whole spans of IOB2 tags."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """Examples of one language: `words[i]` are the words of example i, and `labels[i]` the class of each, by its number."""

    words: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.words)

    def take(self, indices: Sequence[int]) -> Examples:
        """Return some of the examples."""
        return Examples(tuple(self.words[i] for i in indices), tuple(self.labels[i] for i in indices))


@dataclass(frozen=True)
class Languages:
    """Examples by language, with one set of classes.

    Attributes:
        title: what the labels are, for messages.
        classes: their names.
        score: how an answer is judged.
        source: the language of many examples.
        whole: by language, all examples, of which each seed draws its own parts.
        parts: by language, the parts of `PARTS` where they are given, in place of `whole`.
    """

    title: str
    classes: tuple[str, ...]
    score: Score
    source: str
    whole: Mapping[str, Examples]
    parts: Mapping[str, Mapping[str, Examples]]

    def check(self, language: str) -> None:
        """Raise MetabenchError, naming the nearest, if there is no such language."""
        known = self.whole or self.parts
        if language not in known:
            raise unknown(f"language of {self.title}", language, known)

    def split(self, language: str, sizes: Mapping[str, int], seed: int) -> dict[str, Examples]:
        """Return disjoint parts of a language, 'train', 'validation' and 'test', drawn by the seed.

        `sizes` has the examples of the first two, and the most of the last. Parts of one pool keep the proportions of classes where an
        example is one word.

        Raises:
            MetabenchError: there is no such language, or it has too few examples: one has to be left for the test.
        """
        from metabench.data.splits import disjoint

        self.check(language)
        if self.parts:
            given = self.parts[language]
            for part in ("train", "validation"):
                if len(given[part]) < sizes[part]:
                    raise self._few(
                        language, len(given[part]), f"the part '{part}'", f"{sizes[part]} examples of it are requested"
                    )
            return {part: _drawn(given[part], min(sizes[part], len(given[part])), seed) for part in PARTS}
        pool = self.whole[language]
        rest = len(pool) - sizes["train"] - sizes["validation"]
        if rest < 1:
            wanted = f"{sizes['train']} for training and {sizes['validation']} for validation leave none for the test"
            raise self._few(language, len(pool), "it", wanted)
        import numpy as np

        one_word = all(len(labels) == 1 for labels in pool.labels)
        targets = np.array([labels[0] for labels in pool.labels]) if one_word else None
        sizes = {**sizes, "test": min(sizes["test"], rest)}
        return {
            part: pool.take(indices.tolist()) for part, indices in disjoint(len(pool), sizes, seed, targets).items()
        }

    def all_of(self, language: str, count: int, seed: int) -> Examples:
        """Return `count` training examples of a language, drawn by the seed; 0 for all of them.

        Raises:
            MetabenchError: there is no such language, or it has too few examples.
        """
        self.check(language)
        pool = self.parts[language]["train"] if self.parts else self.whole[language]
        if count > len(pool):
            raise self._few(language, len(pool), "it", f"{count} are requested")
        return _drawn(pool, count, seed) if count else pool

    def _few(self, language: str, count: int, what: str, wanted: str) -> MetabenchError:
        return MetabenchError(
            f"{self.title}: '{language}' has too few examples: {what} has {count}, and {wanted}; ask for fewer, or for another language"
        )


def _drawn(pool: Examples, count: int, seed: int) -> Examples:
    from metabench.data.splits import disjoint

    return pool.take(disjoint(len(pool), {"drawn": count}, seed)["drawn"].tolist())
