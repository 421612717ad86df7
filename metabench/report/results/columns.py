"""Summaries of one column over the seeds of a cell, as the column declares them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from metabench.results.schema import BY_NAME
from metabench.results.statistics import intervals


def finite(value: Any) -> bool:
    """Tell whether a value is there and, if it is a number, finite."""
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def present(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """Return the values of a column that are there and finite, in the order of the rows."""
    return [row[column] for row in rows if finite(row[column])]


def combined(rows: Iterable[Mapping[str, Any]], column: str) -> Any:
    """Return what the seeds' values of a column become, as `Column.seeds` declares; None where there is no value."""
    found = present(rows, column)
    return combine(found, column) if found else None


def combine(values: Sequence[Any], column: str) -> Any:
    """Return what some values of a column, at least one, become; numbers by name are combined by name."""
    how = BY_NAME[column].seeds
    if how is None:
        raise ValueError(f"column '{column}' does not declare how its seeds are combined")
    if how == "same" or not isinstance(values[0], Mapping):
        return _COMBINE[how](values)
    names = dict.fromkeys(name for value in values for name in value)
    return {name: _COMBINE[how]([value[name] for value in values if name in value]) for name in names}


def seeds_word(column: str) -> str:
    """Return what captions call the value of a column over seeds, as 'largest'."""
    how = BY_NAME[column].seeds
    return {"max": "largest", "same": "shared", "interval": "mean"}.get(how or "", how or "")


_COMBINE: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "same": lambda values: values[0],
    "max": max,
    "median": lambda values: float(statistics.median(values)),
    "mean": statistics.fmean,
    "interval": lambda values: intervals([values])[0],
}
