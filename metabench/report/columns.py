"""Summaries of one column over the seeds of a cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any


def finite(value: Any) -> bool:
    """Tell whether a value is there and finite."""
    return value is not None and math.isfinite(value)


def present(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """Return the values of a column that are there and finite, in the order of the rows."""
    return [
        row[column]
        for row in rows
        if row[column] is not None and (not isinstance(row[column], float) or math.isfinite(row[column]))
    ]


def largest(rows: Iterable[Mapping[str, Any]], column: str) -> int | None:
    """Return the largest value of a column; None where there is none."""
    found = present(rows, column)
    return max(found) if found else None


def greatest(rows: Iterable[Mapping[str, Any]], column: str) -> float | None:
    """Return the greatest value of a column of real numbers; None where it has none."""
    return max(present(rows, column), default=None)


def median(rows: Iterable[Mapping[str, Any]], column: str) -> float | None:
    """Return the median of a column; None where it has no value."""
    found = present(rows, column)
    return float(statistics.median(found)) if found else None


def mean(rows: Iterable[Mapping[str, Any]], column: str) -> float | None:
    """Return the mean of a column; None where it has no value."""
    found = present(rows, column)
    return math.fsum(found) / len(found) if found else None
