"""How answers are scored: accuracy, the mean of F1 over classes, and the F1 of spans, each from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

from metabench.data.formats.tagged import spans
from metabench.data.languages import Score


def score(kind: Score, true: Sequence[Sequence[int]], found: Sequence[Sequence[int]], classes: Sequence[str]) -> float:
    """Return the score of the labels found, word by word and sentence by sentence, against the true ones."""
    if kind == "span F1":
        truth, answers = (
            {(i, *span) for i, row in enumerate(rows) for span in spans([classes[label] for label in row])}
            for rows in (true, found)
        )
        return f1(len(truth & answers), len(answers - truth), len(truth - answers))
    pairs = [pair for rows in zip(true, found, strict=True) for pair in zip(*rows, strict=True)]
    if kind == "accuracy":
        return sum(a == b for a, b in pairs) / len(pairs)
    return macro_f1(pairs, len(classes))


def macro_f1(pairs: Sequence[tuple[int, int]], classes: int) -> float:
    """Return the mean of F1 over the classes that are true or found somewhere, of pairs (true, found)."""
    values = []
    for one in range(classes):
        hits = sum(a == b == one for a, b in pairs)
        false, missed = sum(b == one != a for a, b in pairs), sum(a == one != b for a, b in pairs)
        if hits + false + missed:
            values.append(f1(hits, false, missed))
    return sum(values) / len(values)


def f1(hits: int, false: int, missed: int) -> float:
    """Return 2 hits / (2 hits + false + missed); 0 where there is nothing to find and nothing found."""
    whole = 2 * hits + false + missed
    return 2 * hits / whole if whole else 0.0
