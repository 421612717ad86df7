"""Who is compared: optimisers, learned or tuned, that were judged on the same tasks, whatever they were trained with."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metabench.core.curves import Curve
from metabench.learned.names import AREA, TRAINED_BY, on_trial, trial_of
from metabench.report import verdicts
from metabench.report.palette import LabelStyle, assign_styles
from metabench.report.results.columns import combine, finite
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Place, Row, Task
from metabench.report.results.tuned import is_tuned
from metabench.report.verdicts import Ranking
from metabench.results.statistics import Estimate, intervals

JUDGED_BY = frozenset({"longer", "transfers", "judge_every", "validation_episodes", "test_episodes", "test_tasks"})
"""Options that say by which tests an optimiser is judged: its episodes of training are the same without them."""


@dataclass(frozen=True)
class Entrant:
    """An optimiser as one experiment left it, with the rows of all its seeds.

    name: 'lstm by unrolled', or 'adam, tuned'.
    """

    name: str
    optimiser: str
    method: str
    rows: tuple[Row, ...]

    @property
    def tuned(self) -> bool:
        """Whether its settings were chosen from a grid by validation."""
        return is_tuned(self.rows[0])

    @property
    def finished(self) -> list[Row]:
        """The rows of seeds that finished."""
        return [row for row in self.rows if row["status"] == "ok"]

    def by_seed(self, metric: str) -> dict[int, float]:
        """Return a metric by seed, where it is there and finite."""
        found = {row["seed"]: (row["metrics"] or {}).get(metric) for row in self.finished}
        return {seed: value for seed, value in found.items() if value is not None and finite(value)}

    def estimate(self, metric: str) -> Estimate | None:
        """Return the mean of a metric over seeds with its interval; None where no seed has it."""
        values = list(self.by_seed(metric).values())
        return intervals([values])[0] if values else None

    def combined(self, column: str) -> Any:
        """Return what the seeds' values of a column become, as the column declares; None where there is no value."""
        values = [row[column] for row in self.finished if finite(row.get(column))]
        return combine(values, column) if values else None

    def curves(self, suite: Suite, name: str) -> list[Curve]:
        """Return a curve of every seed that finished and has it."""
        found = (suite.curves.get((row["cell"], row["seed"]), {}).get(name) for row in self.finished)
        return [curve for curve in found if curve is not None]


@dataclass(frozen=True)
class Bench:
    """The tasks on which some entrants are judged. conditions: the options of the problem that make them, by name."""

    task: Task
    size: str
    conditions: tuple[tuple[str, Any], ...]
    place: Place
    entrants: tuple[Entrant, ...] = field(compare=False)

    def has_the_episodes_of(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row, of whatever kind, has episodes as these tasks have, measured in the same place."""
        place = (Task(row["problem"], row["dataset"]), row["size"], Place.of(row))
        wanted = {name: value for name, value in self.conditions if name not in JUDGED_BY}
        given = row["problem_options"]
        return place == (self.task, self.size, self.place) and all(
            given.get(name) == value for name, value in wanted.items()
        )

    @property
    def horizon(self) -> int:
        """Inner steps of an episode."""
        return int(dict(self.conditions).get("horizon", 0))

    @property
    def tuned(self) -> list[Entrant]:
        """The tuned baselines."""
        return [one for one in self.entrants if one.tuned]

    @property
    def learned(self) -> list[Entrant]:
        """The others."""
        return [one for one in self.entrants if not one.tuned]

    @functools.cached_property
    def trials(self) -> list[str]:
        """The names of all trials; '' first, the tasks trained on."""
        names = (name for one in self.entrants for row in one.finished for name in row["metrics"] or {})
        found = dict.fromkeys(trial for name in names if (trial := trial_of(name, AREA)) is not None)
        return sorted(found, key=lambda trial: trial != "")

    def best(self, entrants: Sequence[Entrant], metric: str) -> tuple[Entrant, float] | None:
        """Return the entrant with the least mean of a metric, and that mean; None where none has one."""
        means = [(one, estimate.value) for one in entrants if (estimate := one.estimate(metric))]
        return min(means, key=lambda pair: pair[1], default=None)

    def ranking(self, trial: str = "") -> Ranking:
        """Return the verdicts on the area under the curve, of all entrants."""
        metric = on_trial(trial, AREA)
        samples = {one.name: sample for one in self.entrants if (sample := one.by_seed(metric))}
        return verdicts.rank(samples, higher_is_better=False)

    @functools.cached_property
    def styles(self) -> dict[str, LabelStyle]:
        """A style for each entrant: a colour for each method that trains, and one for each tuned baseline."""
        owners = {one.name: one.optimiser if one.tuned else one.method for one in self.entrants}
        return assign_styles(list(dict.fromkeys(owners.values())), owners)


@functools.lru_cache(maxsize=1)
def benches(suite: Suite) -> list[Bench]:
    """Return the tasks on which optimisers are judged, in the order of the suite; empty where it judges none."""
    grouped: dict[tuple[Task, str, tuple[tuple[str, Any], ...], Place], list[Row]] = {}
    for row in suite.rows:
        judged = row["outer_steps"] > 0 or is_tuned(row)
        if row["metric"] == AREA and "optimiser" in row["problem_options"] and judged:
            options = sorted((name, value) for name, value in row["problem_options"].items() if name not in TRAINED_BY)
            key = (Task(row["problem"], row["dataset"]), row["size"], tuple(options), Place.of(row))
            grouped.setdefault(key, []).append(row)
    return [Bench(*key, tuple(_entrants(rows))) for key, rows in grouped.items()]


def _entrants(rows: Sequence[Row]) -> list[Entrant]:
    """Return the entrants behind some rows, with names that differ."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    first = {cell: group[0] for cell, group in cells.items()}
    names = {cell: _name(row) for cell, row in first.items()}
    for words in _MORE:
        shared = Counter(names.values())
        longer = {cell: ", ".join(filter(None, (name, words(first[cell])))) for cell, name in names.items()}
        telling = {name: len({longer[cell] for cell, own in names.items() if own == name}) > 1 for name in shared}
        names = {cell: longer[cell] if telling[name] else name for cell, name in names.items()}
    return [
        Entrant(names[cell], first[cell]["problem_options"]["optimiser"], first[cell]["label"], tuple(group))
        for cell, group in cells.items()
    ]


def _option(name: str) -> Callable[[Row], str]:
    return lambda row: f"{name} {row['problem_options'][name]}" if name in row["problem_options"] else ""


_MORE: tuple[Callable[[Row], str], ...] = (
    lambda row: f"K = {row['inner_steps']}",
    lambda row: f"{row['outer_steps']} updates",
    *(_option(name) for name in sorted(TRAINED_BY - {"optimiser"})),
)
"""What tells entrants of one name apart, each where those before it do not."""


def _name(row: Mapping[str, Any]) -> str:
    options = row["problem_options"]
    optimiser = " and ".join(filter(None, (options["optimiser"], options.get("dense"))))
    if is_tuned(row):
        return f"{optimiser.partition(',')[0]}, tuned"
    return f"{optimiser} as it is" if row["target"] == "none" else f"{optimiser} by {row['label']}"
