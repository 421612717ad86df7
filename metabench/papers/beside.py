"""This suite's figures beside published ones: ratios and differences of two methods in the same setting and seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

import pandas as pd

from metabench.papers.read import RATIO, Comparable, Figure, Paper, Value

SETTING = (
    "suite", "experiment", "kind", "kind_options", "problem", "dataset", "size", "problem_options", "inner_steps", "outer_steps",
    "device", "hardware", "kernels", "instruction_set", "threads", "dtype", "torch_version",
)  # fmt: skip
"""Columns of a row that two methods must share to be compared. What a failed row may lack, as its batch, is not among them."""

COLUMNS = (
    "paper", "bibtex", "what", "unit", "method", "against", "model", "data", "hardware", "source", "printed", "column", "relation",
    "published", "published_low", "published_high", "ours", "ours_low", "ours_high", "settings", "pairs", "missing", "problems", "sizes",
    "differs",
)  # fmt: skip

Row = Mapping[str, Any]


def beside(papers: Iterable[Paper], rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each figure of `papers` that has a `comparable` entry.

    `rows` is a frame of `metabench.results.store.rows_of`. Columns, besides those that repeat the paper's file:

    - relation: 'ratio' (method over against), 'difference' (method minus against, of qualities) or 'value'.
    - published, published_low, published_high: the paper's, with the bounds that the rounding of its numbers leaves; NaN where it states
      bounds alone, infinite where it states one.
    - ours: of each setting the median over seeds (of qualities the mean), then the median over settings. ours_low, ours_high: the range
      over settings and seeds. NaN without any.
    - settings, pairs: settings, and settings times seeds, behind it. missing: those left out because one of the two has no value, as
      after a failure. problems, sizes: names of these settings.
    """
    records: list[Row] = rows.to_dict("records")
    found = [
        _beside(paper, figure, figure.comparable, records)
        for paper in papers
        for figure in paper.figures
        if figure.comparable
    ]
    return pd.DataFrame(found, columns=list(COLUMNS))


def _beside(paper: Paper, figure: Figure, comparable: Comparable, rows: list[Row]) -> dict[str, Any]:
    relation = "value" if not figure.against else "difference" if comparable.column == "quality" else "ratio"
    number, low, high = _published(figure, relation)
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    names: dict[str, list[str]] = {"problem": [], "size": []}
    missing = 0
    methods = (figure.method, figure.against)
    wanted = [row for row in rows if row["method"] in methods and _takes(comparable, figure, row)]
    others: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in wanted:
        if row["method"] == figure.against:
            others[_key(row)].append(row)
    for row in wanted:
        if row["method"] != figure.method or not _has(row["method_options"], comparable.method_options):
            continue
        for other in others[_key(row)] if figure.against else [row]:
            value = _relate(relation, _number(row, comparable.column), _number(other, comparable.column))
            if math.isnan(value):
                missing += 1
                continue
            groups[_key(row)[:-1]].append(value)
            for column, seen in names.items():
                seen.append(row[column])
    every = [value for group in groups.values() for value in group]
    middle = mean if comparable.column == "quality" else median
    return {
        **{name: getattr(figure, name) for name in ("what", "unit", "method", "against", "source", "differs")},
        **{name: getattr(figure.setting, name) for name in ("model", "data", "hardware")},
        "paper": paper.name,
        "bibtex": paper.bibtex,
        "printed": figure.text,
        "column": comparable.column,
        "relation": relation,
        "published": number,
        "published_low": low,
        "published_high": high,
        "ours": median(map(middle, groups.values())) if groups else math.nan,
        "ours_low": min(every, default=math.nan),
        "ours_high": max(every, default=math.nan),
        "settings": len(groups),
        "pairs": len(every),
        "missing": missing,
        **{f"{column}s": ", ".join(dict.fromkeys(seen)) for column, seen in names.items()},
    }


def _published(figure: Figure, relation: str) -> tuple[float, float, float]:
    """Return the published ratio, difference or value, and its bounds."""
    value, other = figure.value, figure.against_value
    if other is None or figure.unit == RATIO:
        return _or_nan(value), value.low, value.high
    return (
        _relate(relation, _or_nan(value), _or_nan(other)),
        _relate(relation, value.low, other.high),
        _relate(relation, value.high, other.low),
    )


def _or_nan(value: Value) -> float:
    return math.nan if value.number is None else value.number


def _relate(relation: str, value: float, other: float) -> float:
    if relation == "ratio":
        return value / other if other else math.nan
    return value - other if relation == "difference" else value


def _takes(comparable: Comparable, figure: Figure, row: Row) -> bool:
    return (
        row["problem"] in comparable.problems
        and row["size"] in (comparable.sizes or (row["size"],))
        and row["dataset"] in (comparable.datasets or (row["dataset"],))
        and row["kind"] in (comparable.kinds or (row["kind"],))
        and _has(row["problem_options"], comparable.problem_options)
        and (comparable.column != "quality" or (row["outer_steps"] > 0 and _metric_fits(row["metric"], figure.unit)))
    )


def _metric_fits(metric: object, unit: str) -> bool:
    """Return whether a metric has this unit: accuracies are not set beside losses. A row that failed early names no metric."""
    return not isinstance(metric, str) or not metric or metric.endswith(f"({unit})")


def _has(options: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(options.get(name) == value for name, value in wanted.items())


def _key(row: Row) -> tuple[str, ...]:
    """Return the setting of a row, then its seed."""
    values = (row[name] for name in SETTING)
    return (
        *(str(sorted(value.items()) if isinstance(value, Mapping) else value) for value in values),
        str(row["seed"]),
    )


def _number(row: Row, column: str) -> float:
    """Return a finite number, or NaN."""
    value = row[column]
    usable = row["status"] == "ok" and value is not None and math.isfinite(value)
    return float(value) if usable else math.nan
