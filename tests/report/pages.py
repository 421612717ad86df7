"""The suites whose pages are judged in a browser: one row, many rows, odd names, everything failed. Made up, except the published one."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from metabench.report.build import build_page
from metabench.results.store import collect, write_rows
from tests.report import synthetic_rows as synthetic

Row = dict[str, Any]

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "reference" / "results.parquet"
SMOKE = ROOT / "config" / "suites" / "smoke.yaml"
METHODS = list(synthetic.METHODS)
HEBREW = "שיטה_חדשה"
ARABIC = "طريقة"
MARKUP = "<b onclick='x'>&amp;\"$x_1$\"</b>"
LONG = "a_method_whose_name_goes_on_" * 7 + "end."


def _row(method: str, seed: int = 0, problem: str = "label_noise", like: str = "", **changes: Any) -> Row:
    """Return the row of a method and a problem by any name, with the numbers of method `like` (default: itself)."""
    size = changes.pop("size", next(iter(synthetic.SIZES.get(problem, {"mlp64": 0}))))
    known = problem if problem in synthetic.SIZES else "label_noise"
    # The data set takes part in the numbers: problems differ.
    made = synthetic.row(
        like or method, seed, known, size, dataset=changes.pop("dataset", None) or f"data of {problem}", **changes
    )
    where = f"{problem} {method} {made['cell']} {made['hardware']} {made['instruction_set']}"
    return made | {
        "problem": problem,
        "method": method,
        "label": synthetic.label_of(method, made["method_options"]),
        "cell": hashlib.sha256(where.encode()).hexdigest()[:8],
        "method_hash": synthetic.method_hash(method),
        "code_hash": hashlib.sha256(f"{method}{problem}".encode()).hexdigest()[:16],
    }


def _grid(problems: int, methods: int, seeds: int) -> list[Row]:
    """Return rows of every method on every problem; the first methods are the known ones, the baseline among them."""
    names = [(METHODS * 9)[index] + (f"_{index // len(METHODS)}" * (index >= len(METHODS))) for index in range(methods)]
    return [
        _row(name, seed, f"problem_{problem:02d}", METHODS[index % len(METHODS)])
        for problem in range(problems)
        for index, name in enumerate(names)
        for seed in range(seeds)
    ]


def _smoke() -> list[Row]:
    suite = yaml.safe_load(SMOKE.read_text(encoding="utf-8"))
    return [
        _row(method, seed, one["problem"], experiment=name, problem_variant="", inner_steps=4, size=size)
        for name, one in suite["experiments"].items()
        if one["problem"] in synthetic.SIZES
        for size in one.get("sizes", [next(iter(synthetic.SIZES[one["problem"]]))])
        for method in one["methods"]
        for seed in suite["seeds"]
    ]


def _failed() -> list[Row]:
    kinds = list(synthetic.MESSAGES.items())
    return [
        _row(method, seed, status=kinds[index % len(kinds)][0], message=kinds[index % len(kinds)][1])
        for index, method in enumerate(METHODS)
        for seed in range(3)
    ]


def _names() -> list[Row]:
    """Return rows whose names have markup, are written from right to left, or have 200 characters, as have the messages."""
    odd = (("unrolled", ""), (MARKUP, "t1t2"), (HEBREW, "evograd"), (LONG, "mixflow"))
    rows = [
        _row(name, seed, problem, like, problem_variant=variant, dataset=data, message=message, status=status)
        for problem, data, variant in ((MARKUP, ARABIC, f"text={MARKUP}"), (LONG, LONG, f"path={'/'.join([LONG] * 2)}"))
        for name, like in odd
        for seed in range(2)
        for status, message in (("error", f"{MARKUP} {LONG}"),) * (name == LONG) or (("ok", ""),)
    ]
    return rows


def _with(methods: Iterable[str], seeds: int, **changes: Any) -> list[Row]:
    return [_row(method, seed, **changes) for method in methods for seed in range(seeds)]


SUITES: dict[str, Callable[[], list[Row]]] = {
    "smoke": _smoke,
    "one row": lambda: [_row("unrolled")],
    "20 x 20 x 5": lambda: _grid(20, 20, 5),
    "one method": lambda: _with(["unrolled"], 5),
    "one seed": lambda: _with(METHODS, 1),
    "all failed": _failed,
    "equal": lambda: _with(METHODS, 3, quality=0.5, metrics={"accuracy": 0.5}),
    "names": _names,
    "two machines": lambda: _with(METHODS, 2) + _with(METHODS, 2, hardware="Apple M4 Max (12 cores)"),
    "two instruction sets": lambda: (
        _with(METHODS, 2, kernels="native") + _with(METHODS, 2, kernels="native", instruction_set="AVX512")
    ),
    "loaded": lambda: _with(METHODS, 3, load_at_start=97.3),
    "50 methods": lambda: _grid(1, 50, 2),
    "40 problems": lambda: _grid(40, 3, 2),
}
"""Rows of every synthetic suite by its name."""

PAGES = ("published", *SUITES)


def _metadata(rows: list[Row]) -> dict[str, str]:
    """Return metadata with a card and a citation for every name in the rows, and a certificate for every method."""
    made = synthetic.metadata()
    for kind, column in (("methods", "method"), ("problems", "problem"), ("datasets", "dataset")):
        cards = json.loads(made[kind])
        for row in rows:
            like = next(iter(cards.values())) | {"title": f"The {column} {row[column]}"}
            like |= {name: row[name] for name in ("target", "exact") if kind == "methods"}
            cards.setdefault(row[column], like)
        made[kind] = json.dumps({name: cards[name] for name in dict.fromkeys(row[column] for row in rows)})
    return made | {"certificates": synthetic.certificates(dict.fromkeys(row["method"] for row in rows))}


@functools.cache
def results(name: str) -> Path:
    """Return results.parquet of a suite of PAGES; a synthetic one is written once per process."""
    if name == "published":
        return PUBLISHED
    rows = SUITES[name]()
    folder = Path(_folder().name) / name.replace(" ", "_")
    write_rows(folder / "rows.parquet", rows)
    return collect([folder / "rows.parquet"], folder / "results.parquet", _metadata(rows)).parquet


@functools.cache
def page(name: str) -> Path:
    """Return the page of a suite of PAGES, rendered once per process."""
    return build_page(results(name), Path(_folder().name) / "pages" / f"{name.replace(' ', '_')}.html")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="metabench-pages-")
