"""`metabench list`: methods, problems, data sets, sizes, optimisers, strategies, kinds of experiment and suites, as tables or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from metabench.cli.output import human_bytes, print_json, print_table
from metabench.core.errors import MetabenchError
from metabench.suite.plan.catalogue import (
    dataset_cards,
    kind_cards,
    learned_cards,
    method_cards,
    optimiser_cards,
    problem_cards,
    size_cards,
    strategy_cards,
)

Entries = list[dict[str, Any]]


class Kind(str, Enum):
    """The kinds that can be listed."""

    methods = "methods"
    problems = "problems"
    datasets = "datasets"
    sizes = "sizes"
    optimisers = "optimisers"
    learned = "learned"
    strategies = "strategies"
    kinds = "kinds"
    suites = "suites"


@dataclass(frozen=True)
class _Listing:
    """How one kind is found and shown."""

    entries: Callable[[Sequence[Path]], Entries]
    columns: tuple[str, ...]
    row: Callable[[dict[str, Any]], tuple[str, ...]]
    right: tuple[str, ...] = ()


def print_listing(kind: Kind | None, as_json: bool, plugins: Sequence[Path]) -> None:
    """Print one kind, or all of them. As JSON: a list of one kind, or an object of lists by kind."""
    listings = {kind: _LISTINGS[kind]} if kind else {**_LISTINGS, Kind.suites: _SUITES_IN_BRIEF}
    found = {one.value: listing.entries(plugins) for one, listing in listings.items()}
    if as_json:
        print_json(found[kind.value] if kind else found)
        return
    for one, listing in listings.items():
        print_table(one.value, listing.columns, [listing.row(entry) for entry in found[one.value]], listing.right)


def _named(cards: dict[str, dict[str, Any]]) -> Entries:
    return [{"name": name, **card} for name, card in cards.items()]


def _suite_files() -> list[Path]:
    """Return the suites in ./config: the default one and those in config/suites."""
    files = [Path("config/config.yaml"), *sorted(Path("config/suites").glob("*.yaml"))]
    return [path for path in files if path.is_file()]


def _named_suites() -> Entries:
    """Return each suite's file, name and title, without planning it: the nine here would take longer than all else that is listed."""
    import yaml

    found: Entries = []
    for path in _suite_files():
        try:
            # The C parser, where PyYAML has it, takes a tenth of the time.
            values = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            name, title = (str(values.get(key, "")) for key in ("name", "title"))
        except (OSError, ValueError, AttributeError, yaml.YAMLError):
            name, title = "", f"cannot be read: `metabench plan {path}` says why"
        found.append({"file": str(path), "name": name, "title": title})
    return found


def _planned_suites() -> Entries:
    """Return the suites with their cells and rows counted. One that cannot be planned says why."""
    from metabench.suite.plan.plan import load_suite, plan

    found: Entries = []
    for path in _suite_files():
        try:
            planned = plan(load_suite(path))
        except MetabenchError as error:
            found.append({"file": str(path), "name": "", "title": "", "cells": None, "rows": None, "error": str(error)})
            continue
        suite = planned.suite
        counts = {"cells": len(planned.cells), "rows": planned.rows}
        found.append({"file": str(path), "name": suite.name, "title": suite.title, **counts, "error": ""})
    return found


def _options(options: Entries) -> str:
    return "\n".join(f"{option['name']}={option['default']}{_bounds(option)}" for option in options) or "-"


def _bounds(option: dict[str, Any]) -> str:
    if "choices" in option:
        return f" ({' | '.join(option['choices'])})"
    low = f"> {option['above']:g}" if "above" in option else f">= {option['minimum']:g}" if "minimum" in option else ""
    high = f"<= {option['maximum']:g}" if "maximum" in option else ""
    return f" ({', '.join(bound for bound in (low, high) if bound)})" if low or high else ""


def _where(entry: dict[str, Any]) -> str:
    if entry["embedded"]:
        return "embedded"
    if entry["fetched"]:
        return "here" if entry["available"] else f"metabench fetch {entry['name']}"
    if entry["library"]:
        return f"in {entry['library']}" if entry["available"] else f"needs {entry['library']}"
    return "own file" if entry["files"] else "no data"


_LISTINGS: dict[Kind, _Listing] = {
    Kind.methods: _Listing(
        lambda plugins: _named(method_cards(plugins)),
        ("name", "target", "exact", "cost beyond the outer gradient", "memory", "options", "paper"),
        lambda m: (
            m["name"],
            m["target"],
            "yes" if m["exact"] else "no",
            m["cost"],
            m["memory"],
            _options(m["options"]),
            m["citation_key"],
        ),
    ),
    Kind.problems: _Listing(
        lambda plugins: _named(problem_cards(plugins)),
        ("name", "what", "data sets", "sizes", "metrics", "inner steps", "outer steps", "options"),
        lambda p: (
            p["name"],
            p["title"],
            ", ".join(p["datasets"]),
            ", ".join(p["sizes"]),
            ", ".join(f"{metric['name']} ({metric['direction']})" for metric in p["metrics"]),
            str(p["inner_steps"]),
            str(p["outer_steps"]),
            _options(p["options"]),
        ),
        right=("inner steps", "outer steps"),
    ),
    Kind.datasets: _Listing(
        lambda plugins: _named(dataset_cards(plugins)),
        ("name", "what", "examples or bytes", "files", "where", "licence"),
        lambda d: (
            d["name"],
            d["title"],
            ", ".join(f"{count:,} {split}" for split, count in d["sizes"].items()),
            human_bytes(d["bytes"]) if d["bytes"] else "-",
            _where(d),
            d["licence"],
        ),
        right=("files",),
    ),
    Kind.sizes: _Listing(
        size_cards,
        ("problem", "size", "model"),
        lambda s: (s["problem"], s["size"] + (" (default)" if s["default"] else ""), s["description"]),
    ),
    Kind.optimisers: _Listing(
        lambda plugins: _named(optimiser_cards(plugins)),
        ("name", "inner optimiser", "module"),
        lambda o: (o["name"], o["title"], o["module"]),
    ),
    Kind.learned: _Listing(
        lambda plugins: _named(learned_cards(plugins)),
        ("name", "learned optimiser", "options", "paper"),
        lambda o: (o["name"], o["title"], _options(o["options"]), o["citation_key"]),
    ),
    Kind.strategies: _Listing(
        lambda plugins: _named(strategy_cards(plugins)),
        ("name", "search strategy", "options", "paper"),
        lambda s: (s["name"], s["title"], _options(s["options"]), s["citation_key"]),
    ),
    Kind.kinds: _Listing(
        lambda plugins: _named(kind_cards(plugins)),
        ("name", "kind of experiment", "trains", "options"),
        lambda k: (k["name"], k["title"], "yes" if k["trains"] else "no", _options(k["options"])),
    ),
    Kind.suites: _Listing(
        lambda plugins: _planned_suites(),
        ("file", "name", "cells", "rows", "title"),
        lambda s: (
            s["file"],
            s["name"],
            "-" if s["error"] else str(s["cells"]),
            "-" if s["error"] else str(s["rows"]),
            s["error"] or s["title"],
        ),
        right=("cells", "rows"),
    ),
}

_SUITES_IN_BRIEF = _Listing(
    lambda plugins: _named_suites(), ("file", "name", "title"), lambda s: (s["file"], s["name"], s["title"])
)
