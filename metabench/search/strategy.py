"""The contract of search strategies: which nets to look at next, given how good those were that were paid for.

A strategy is a class in a file of this folder, in another installed package or in a plugin. It is made of a space, a budget, a seed and its
options, and has two methods: `ask(n)` and `tell(encodings, fitness)`; higher fitness is better. It draws from its own streams alone, so the
same calls give the same answers: a search that was interrupted repeats them (`Recorded`), and a strategy needs no code for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metabench.core.citations import bibtex
from metabench.core.errors import MetabenchError
from metabench.core.method import NoOptions
from metabench.core.randomness import stream_seed
from metabench.core.registry import Declarable, Found, Registry
from metabench.models.search_space import Space


@dataclass(frozen=True)
class StrategyCard:
    """What a strategy declares.

    Attributes:
        title: one line for tables.
        citation: key in `references.bib`, or BibTeX, or empty.
        options: frozen dataclass of its options.
        name: the word in a suite; empty: the name of its file.
    """

    title: str
    citation: str = ""
    options: type = NoOptions
    name: str = ""


class Strategy(Declarable, ABC):
    """Asks for nets and learns their fitness.

    Args:
        space: of the nets.
        budget: how many full evaluations the search may pay for.
        seed: of its streams.
        options: an instance of its card's options.
    """

    card: ClassVar[StrategyCard]

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        self.space, self.budget, self.seed, self.options = space, budget, seed, options
        self.stream = np.random.Generator(np.random.PCG64(stream_seed(seed, "strategy")))

    @abstractmethod
    def ask(self, n: int) -> Sequence[str]:
        """Return at most `n` encodings to look at next; fewer, and none, where it waits for what was asked or has no more."""

    @abstractmethod
    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Learn how good some nets are; a net that was not asked for comes from another island."""

    def part(self, encoding: str) -> float:
        """Return the part of the tasks on which a net that was asked for is to be judged, more than 0, at most 1."""
        return 1.0

    def drawn(self) -> str:
        """Return a net drawn at random from `stream`, equal ones not excluded."""
        return self.space.text([int(self.stream.integers(count)) for count in self.space.choices])


class Recorded:
    """A strategy whose calls are kept, and can be repeated: its state is what it was asked and told."""

    def __init__(self, strategy: Strategy, calls: Iterable[Sequence[Any]] = ()) -> None:
        self.strategy, self.calls = strategy, []
        for call in calls:
            if call[0] == "ask":
                self.ask(call[1])
            else:
                self.tell(call[1], call[2])

    def ask(self, n: int) -> list[str]:
        """Return what the strategy asks for, in canonical encodings."""
        self.calls.append(["ask", n])
        found = list(self.strategy.ask(n))
        if len(found) > n:
            raise MetabenchError(f"the strategy was asked for {n} nets and returned {len(found)}")
        return [self.strategy.space.read(one) for one in found]

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Tell the strategy."""
        self.calls.append(["tell", list(encodings), [float(one) for one in fitness]])
        self.strategy.tell(encodings, fitness)


def check_strategy(strategy: type[Strategy], name: str) -> None:
    """Raise MetabenchError if a strategy's declaration cannot be listed or used."""
    card = getattr(strategy, "card", None)
    if not isinstance(card, StrategyCard):
        raise MetabenchError(
            f"strategy '{name}': {strategy.__name__}.card is {card!r}, expected a metabench.search.StrategyCard"
        )
    bibtex(card.citation)


STRATEGIES: Registry[type[Strategy]] = Registry(
    sort="strategy",
    kind=Strategy,
    package="metabench.search.strategies",
    group="metabench.strategies",
    name=lambda strategy, stem: strategy.card.name or stem,
    check=check_strategy,
    hint="derive a class from metabench.search.strategy.Strategy",
    classes=True,
)


def strategies(plugins: Iterable[Path] = ()) -> Found[type[Strategy]]:
    """Return all strategies by name; raise MetabenchError as `Registry`."""
    return STRATEGIES(plugins)


def make_strategy(
    name: str,
    space: Space,
    budget: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    plugins: Iterable[Path] = (),
) -> Strategy:
    """Return a strategy by name; raise MetabenchError naming the nearest valid one, or the option that is wrong."""
    from metabench.core.options import build

    kind = STRATEGIES.pick(name, plugins)
    return kind(space, budget, seed, build(kind.card.options, dict(options or {}), f"strategy '{name}'"))
