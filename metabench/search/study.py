"""Searches side by side at an equal budget, pair by pair: what each chose, what it paid, and whether it beats random search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.models.search_space import Space
from metabench.results.statistics import paired_differences
from metabench.search.driver import Fitness, Line, Search
from metabench.search.predictors import Screened
from metabench.search.strategy import make_strategy


@dataclass(frozen=True)
class Entrant:
    """A strategy, with or without a predictor.

    Attributes:
        strategy: by name.
        options: of the strategy.
        predictor: by name; empty: none.
    """

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)
    predictor: str = ""

    @classmethod
    def read(cls, text: str) -> Entrant:
        """Return the entrant of 'evolution' or 'evolution+ridge'."""
        strategy, _, predictor = text.partition("+")
        return cls(strategy.strip(), predictor=predictor.strip())

    @property
    def name(self) -> str:
        """The words for tables."""
        return f"{self.strategy} + {self.predictor}" if self.predictor else self.strategy

    def search(
        self,
        space: Space,
        budget: int,
        seed: int,
        fitness: Fitness,
        state: Mapping[str, Any] | None = None,
        plugins: Iterable[Path] = (),
    ) -> Search:
        """Return the search of a seed; raise MetabenchError if the budget, the strategy or the predictor will not do."""
        strategy = make_strategy(self.strategy, space, budget, seed, self.options, plugins)
        return Search.of(Screened(strategy, self.predictor) if self.predictor else strategy, fitness, budget, state)


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        entrant: its name.
        seed: of the search.
        chosen: the net.
        validation: its fitness in the search.
        test: its accuracy on test tasks (%), or the regret where the fitness is a table's: looked at once, after the choice.
        lines: the trace.
        told: why it ended.
    """

    entrant: str
    seed: int
    chosen: str
    validation: float
    test: float
    lines: Sequence[Line]
    told: str


def searched(
    entrant: Entrant,
    space: Space,
    budget: int,
    seed: int,
    fitness: Fitness,
    test: Callable[[str], float],
    plugins: Iterable[Path] = (),
) -> Outcome:
    """Return the outcome of one search.

    Raises:
        MetabenchError: as `Entrant.search`; or every net diverged.
    """
    search = entrant.search(space, budget, seed, fitness, plugins=plugins)
    for _ in search.run():
        pass
    if not search.best:
        raise MetabenchError(f"{entrant.name}, seed {seed}: no net was judged on all tasks: the budget ended before, or all diverged")
    found = search.paid[search.best][fitness.tasks]
    assert found is not None
    return Outcome(entrant.name, seed, search.best, found, test(search.best), tuple(search.lines), search.told)


@dataclass(frozen=True)
class Paired:
    """Differences between two entrants, seed by seed.

    Attributes:
        mean: of the differences.
        half: half the 95 % interval of the mean, by Student's t; NaN for fewer than three pairs.
        wins: seeds where the first is higher.
        losses: seeds where it is lower.
        pairs: seeds.
    """

    mean: float
    half: float
    wins: int
    losses: int
    pairs: int


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Return the differences first - second; raise MetabenchError if they are not as many."""
    if len(first) != len(second) or not first:
        raise MetabenchError(f"{len(first)} and {len(second)} outcomes make no pairs")
    (found,) = paired_differences([(dict(enumerate(first)), dict(enumerate(second)))])
    assert found is not None
    half = math.nan if found.high is None else found.high - found.value
    away = [one - other for one, other in zip(first, second, strict=True)]
    return Paired(found.value, half, sum(one > 0 for one in away), sum(one < 0 for one in away), len(away))
