"""The contract of search strategies: which nets to look at next, given how good those were that were paid for.

A strategy is a class in a file of this folder, in another installed package or in a plugin. It is made of a space, a budget, a seed and its
options, and has two methods: `ask(n)` and `tell(encodings, fitness)`; higher fitness is better. It draws from its own streams alone, so the
same calls give the same answers: a search that was interrupted repeats them (`Recorded`), and a strategy needs no code for that.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metabench.core.declarations import check_citation, check_fields
from metabench.core.errors import MetabenchError
from metabench.core.method import NoOptions
from metabench.core.options import build, describe
from metabench.core.randomness import stream_seed
from metabench.core.registry import Declarable, Found, Registry, pick
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

    Raises:
        MetabenchError: the budget is below `fewest`.
    """

    card: ClassVar[StrategyCard]

    def __init__(self, space: Space, budget: int, seed: int, options: Any) -> None:
        if budget < (fewest := self.fewest(options)):
            raise MetabenchError(f"a budget of {budget} evaluations: {type(self).__name__} needs {fewest} or more")
        self.space, self.budget, self.seed, self.options = space, budget, seed, options
        self.stream = np.random.Generator(np.random.PCG64(stream_seed(seed, "strategy")))

    @classmethod
    def fewest(cls, options: Any) -> int:
        """Return the smallest budget, in full evaluations, with which the strategy can do what it is for."""
        del options
        return 1

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
    """A strategy whose calls are kept, and can be repeated: its state is what it was asked, what it answered, and what it was told.

    Args:
        strategy: new, without a call.
        calls: to repeat.

    Raises:
        MetabenchError: the strategy answers otherwise than it did: it is another one, was edited, or has another seed, space or options.
    """

    def __init__(self, strategy: Strategy, calls: Iterable[Sequence[Any]] = ()) -> None:
        self.strategy: Strategy = strategy
        self.calls: list[list[Any]] = []
        for call, given, answer in calls:
            if call == "tell":
                self.tell(given, answer)
            elif (found := self.ask(given)) != list(answer):
                raise MetabenchError(
                    f"the state is of another search: there the strategy asked for {list(answer)}, and here for {found}; it was edited, or "
                    "seed, space or options differ"
                )

    def ask(self, n: int) -> list[str]:
        """Return what the strategy asks for, in canonical encodings; raise MetabenchError if it asks for what is no net of the space."""
        asked = self.strategy.ask(n)
        # A text is a sequence of texts, too.
        if isinstance(asked, str) or not isinstance(asked, Iterable):
            raise MetabenchError(f"the strategy's 'ask' returned {asked!r}, expected a list of encodings")
        nets = list(asked)
        if len(nets) > n:
            raise MetabenchError(f"the strategy was asked for {n} nets and returned {len(nets)}")
        if strange := [net for net in nets if not isinstance(net, str)]:
            raise MetabenchError(f"the strategy's 'ask' returned {strange[0]!r} among its nets, expected encodings")
        found = [self.strategy.space.read(net) for net in nets]
        self.calls.append(["ask", n, found])
        return found

    def tell(self, encodings: Sequence[str], fitness: Sequence[float]) -> None:
        """Tell the strategy."""
        self.calls.append(["tell", list(encodings), [float(one) for one in fitness]])
        self.strategy.tell(encodings, fitness)


def check_strategy(strategy: type[Strategy], name: str) -> None:
    """Raise MetabenchError if a strategy lacks a method or its card, or if the card cannot be listed or used."""
    what = f"strategy '{name}'"
    if inspect.isabstract(strategy):
        raise MetabenchError(f"{what}: {strategy.__name__} lacks {', '.join(sorted(strategy.__abstractmethods__))}")
    card = getattr(strategy, "card", None)
    if not isinstance(card, StrategyCard):
        raise MetabenchError(
            f"{what}: {strategy.__name__}.card is {'missing' if card is None else repr(card)}, expected a "
            "metabench.search.strategy.StrategyCard"
        )
    check_fields(card, {"title": (str,), "citation": (str,), "options": (type,), "name": (str,)}, what)
    check_citation(card.citation, what)
    if not (dataclasses.is_dataclass(card.options) and card.options.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise MetabenchError(f"{what}: options is {card.options.__name__}, expected a dataclass with frozen=True")
    for one in describe(card.options):
        if one["default"] is dataclasses.MISSING:
            raise MetabenchError(f"option '{one['name']}' of {what} has no default")


STRATEGIES: Registry[type[Strategy]] = Registry(
    sort="strategy",
    kind=Strategy,
    package="metabench.search.strategies",
    group="metabench.strategies",
    name=lambda strategy, stem: str(getattr(getattr(strategy, "card", None), "name", "")) or stem,
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
    """Return a strategy by name, of the package, other packages, `plugins` and the plugins that this process has loaded.

    Raises:
        MetabenchError: there is none, and the nearest is named; or an option is wrong.
    """
    STRATEGIES(plugins)
    kind = pick("strategy", name, STRATEGIES.loaded())
    return kind(space, budget, seed, build(kind.card.options, dict(options or {}), f"strategy '{name}'"))
