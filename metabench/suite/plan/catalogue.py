"""The available choices as plain values: for listings, for the command line's JSON and for the metadata of results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metabench.autodiff.optimisers import INNER_OPTIMISERS
from metabench.core.citations import bibtex, keys
from metabench.core.method import Cost
from metabench.core.options import describe
from metabench.core.registry import Registry
from metabench.data import datasets, is_available
from metabench.data.fetch.files import content_sha256
from metabench.data.registry import dataset
from metabench.kinds import kinds
from metabench.learned.declared import LEARNED_OPTIMISERS
from metabench.methods import methods
from metabench.problems import problems

Card = dict[str, Any]


def method_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every method by name: its target, exactness, cost, options and paper."""
    return {
        name: {
            "title": found.title,
            "target": found.target.value,
            "exact": found.exact,
            "stochastic": found.stochastic,
            "cost": cost_text(found.cost),
            "memory": found.cost.memory,
            "options": describe(found.options),
            "citation_key": citation_key(found.citation),
            "citation": bibtex(found.citation),
            "module": found.module,
        }
        for name, found in methods(plugins).items()
    }


def problem_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every problem by name: its data sets, sizes, metrics, options and defaults, and its paper."""
    found = {}
    for name, kind in problems(plugins).items():
        card = kind.card
        found[name] = {
            "title": card.title,
            "datasets": list(card.datasets),
            "sizes": dict(card.named_sizes(plugins)),
            "families": _families(card.sizes, plugins),
            "metrics": [dataclasses.asdict(metric) for metric in card.metrics],
            "inner_steps": card.inner_steps,
            "outer_steps": card.outer_steps,
            "illustration": card.illustration,
            "references": {one: dict(options) for one, options in card.references.items()},
            "options": describe(card.options),
            "files": {path.name: content_sha256(path) for path in card.files},
            "citation_key": citation_key(card.citation),
            "citation": bibtex(card.citation),
        }
    return found


def optimiser_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every inner optimiser by name."""
    return {name: {"title": found.title, "module": found.module} for name, found in INNER_OPTIMISERS(plugins).items()}


def learned_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every learned optimiser by name: its options and its paper."""
    return {
        name: {
            "title": found.title,
            "options": describe(found.options),
            "citation_key": citation_key(found.citation),
            "citation": bibtex(found.citation),
            "module": found.module,
        }
        for name, found in LEARNED_OPTIMISERS(plugins).items()
    }


def strategy_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every search strategy by name: its options and its paper."""
    # Here: it imports numpy, and cells that search for nothing need none of it.
    from metabench.search.strategy import strategies

    return {
        name: {
            "title": found.card.title,
            "options": describe(found.card.options),
            "citation_key": citation_key(found.card.citation),
            "citation": bibtex(found.card.citation),
            "module": found.__module__,
        }
        for name, found in strategies(plugins).items()
    }


def kind_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every kind of experiment by name: its options, and whether it trains."""
    return {
        name: {"title": found.title, "trains": found.trains, "options": describe(found.options), "module": found.module}
        for name, found in kinds(plugins).items()
    }


def dataset_cards(plugins: Iterable[Path] = ()) -> dict[str, Card]:
    """Return every data set by name: licence, sizes, source and whether it is available."""
    return {name: dataset_card(name, plugins) for name in datasets(plugins)}


def dataset_card(name: str, plugins: Iterable[Path] = ()) -> Card:
    """Return the card of one data set, as in `dataset_cards`; a user's own text, "text:PATH", has a card too."""
    declared = dataset(name, plugins)
    found = declared.card
    own = {} if found.files else {path.name: content_sha256(path) for path in declared.files}
    return {
        "title": found.title,
        "task": found.task,
        "licence": found.licence,
        "attribution": found.attribution,
        "source": found.source,
        "sizes": dict(found.sizes),
        "domains": list(found.domains),
        "bytes": sum(file.size for file in found.files) + sum(path.stat().st_size for path in declared.files if own),
        "files": {file.name: file.sha256 for file in found.files} | own,
        "embedded": found.embedded,
        "fetched": found.fetched,
        "library": found.library,
        "available": is_available(name, plugins=plugins),
        "citation_key": citation_key(found.citation),
        "citation": bibtex(found.citation),
    }


def _families(sizes: Any, plugins: Iterable[Path]) -> dict[str, str]:
    """Return the family of models that each size belongs to, where sizes are declared models."""
    return {name: model.family for name, model in sizes(plugins).items()} if isinstance(sizes, Registry) else {}


def size_cards(plugins: Iterable[Path] = ()) -> list[Card]:
    """Return every named size of every problem's model."""
    return [
        {"problem": problem, "size": size, "description": description, "default": place == 0}
        for problem, card in problem_cards(plugins).items()
        for place, (size, description) in enumerate(card["sizes"].items())
    ]


def cost_text(cost: Cost) -> str:
    """Return the counts of a cost that are not zero, as 'gradients: K + 1; forwards: N'."""
    counts = {"gradients": cost.gradients, "HVPs": cost.hvps, "JVPs": cost.jvps, "forwards": cost.forwards}
    return "; ".join(f"{what}: {count}" for what, count in counts.items() if count != "0") or "nothing"


def citation_key(citation: str) -> str:
    """Return the first key of a citation; empty if it cites nothing."""
    return next(iter(keys(citation)), "")
