"""Rows of searches that are judged alike, and differences between two entrants or two ways, seed by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.core.curves import Curve
from metabench.report import numbers
from metabench.report.results.entries import Suite
from metabench.results import net_tables
from metabench.results import searches as names
from metabench.results.statistics import Estimate, paired_differences

Row = Mapping[str, Any]
KIND, RANDOM = "search", names.RANDOM
_OF_ENTRANTS = ("strategies", "searches", "ranking", "new_tasks", "new_budget")
"""Options that do not decide how a net is judged."""
_WAYS = {
    "meta": "with weights meta-trained by {method}",
    "joint": "with weights trained jointly on all classes",
    "joint_meta": "with weights trained jointly, then meta-trained by {method}",
    "untrained": "with weights as drawn",
}


@dataclass(frozen=True)
class Group:
    """Rows of searches that are judged alike: on one space, by one fitness, at one budget.

    Attributes:
        words: by what nets are judged.
        rows: for each seed one, or several of other strategies.
    """

    words: str
    rows: Sequence[Row]

    @property
    def shared(self) -> bool:
        """Whether nets adapt from shared weights."""
        return bool(self.rows[0]["kind_options"]["fitness"] == "supernet")

    @property
    def way(self) -> str:
        """The way to shared weights; empty where there are none."""
        return str(self.rows[0]["kind_options"]["way"]) if self.shared else ""

    @property
    def entrants(self) -> list[str]:
        """The entrants of all rows, what was made by hand last."""
        found = dict.fromkeys(name for row in self.rows for name in names.entrants(row["meta_summary"]))
        return sorted(found, key=lambda name: name == names.BY_HAND)

    @property
    def ranked(self) -> list[str]:
        """What ranks nets."""
        return list(dict.fromkeys(name for row in self.rows for name in net_tables.rankings(row["meta_summary"])))

    def by_seed(self, entrant: str, name: str) -> dict[int, float]:
        """Return an entrant's number, by seed; of seeds that have it."""
        key = names.of(entrant, name)
        return {row["seed"]: row["meta_summary"][key] for row in self.rows if key in row["meta_summary"]}

    def mean(self, entrant: str, name: str) -> float | None:
        """Return the mean over seeds; None where no seed has the number."""
        found = list(self.by_seed(entrant, name).values())
        return statistics.fmean(found) if found else None

    def above(self, entrant: str, name: str, other: str = RANDOM) -> Estimate | None:
        """Return by how much an entrant is above another, seed by seed or search by search; None where one of them has no row."""
        if entrant in (other, names.BY_HAND) or other not in self.entrants:
            return None
        mean, half, _, _ = (self.by_seed(entrant, kept) for kept in names.above(name, other))
        if mean and half:
            # Several searches a row, pair by pair: their intervals are independent, given what was trained.
            value = statistics.fmean(mean.values())
            reach = math.sqrt(sum(one**2 for one in half.values())) / len(half)
            return Estimate(value, value - reach, value + reach, len(mean))
        return paired_differences([(self.by_seed(entrant, name), self.by_seed(other, name))])[0]

    def won_and_lost(self, entrant: str) -> tuple[int, int] | None:
        """Return in how many pairs an entrant's net is better on test tasks than that of random search, and in how many worse."""
        if entrant == RANDOM or RANDOM not in self.entrants:
            return None
        _, _, won, lost = (self.by_seed(entrant, kept) for kept in names.above(names.TEST))
        if won and lost:
            return round(sum(won.values())), round(sum(lost.values()))
        ours, theirs = self.by_seed(entrant, names.TEST), self.by_seed(RANDOM, names.TEST)
        away = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
        return sum(one > 0 for one in away), sum(one < 0 for one in away)

    def curves(self, suite: Suite, name: str) -> dict[int, Curve]:
        """Return the curves by this name, for each seed."""
        found = ((row["seed"], suite.curves.get((row["cell"], row["seed"]), {}).get(name)) for row in self.rows)
        return {seed: curve for seed, curve in found if curve is not None}


@dataclass(frozen=True)
class Bench:
    """Groups on one data set, one shape of tasks and one space, at one budget.

    Attributes:
        dataset: of the tasks.
        ways: classes of a task.
        shots: images of each class to adapt to.
        space: of the nets.
        budget: full evaluations.
        mega_flops: the bound on those of a net, in millions; 0: none.
        groups: in the order of the suite.
    """

    dataset: str
    ways: int
    shots: int
    space: str
    budget: int
    mega_flops: float
    groups: Sequence[Group]

    @property
    def name(self) -> str:
        """The bench in names of files."""
        bound = [f"{self.mega_flops:g}-mflops"] if self.mega_flops else []
        tasks = [] if (self.ways, self.shots) == (5, 1) else [f"{self.ways}-way-{self.shots}-shot"]
        return "-".join([self.dataset, *tasks, self.space, str(self.budget), *bound])

    def where(self, holds: Callable[[Group], bool]) -> list[Group]:
        """Return the groups of which something holds."""
        return [group for group in self.groups if holds(group)]


def rows_of(suite: Suite) -> list[Row]:
    """Return the rows of searches that have something to say."""
    return [row for row in suite.rows if row["kind"] == KIND and row["status"] == "ok" and row["meta_summary"]]


def benches(suite: Suite) -> list[Bench]:
    """Return the groups by data set, tasks, space, budget and bound, in the order of the suite."""
    cells: dict[tuple[str, int, int, str, int, float], dict[str, list[Row]]] = {}
    for row in rows_of(suite):
        options, own = row["kind_options"], row["problem_options"]
        tasks = (row["dataset"], own["ways"], own["shots"])
        bench = (*tasks, own["space"], options["budget"], options.get("mega_flops", 0.0))
        alike = json.dumps(_settings(row), sort_keys=True)
        cells.setdefault(bench, {}).setdefault(alike, []).append(row)
    return [Bench(*bench, groups=_named(list(groups.values()))) for bench, groups in cells.items()]


def _settings(row: Row) -> dict[str, Any]:
    """Return what decides how nets are judged: all settings but the strategies."""
    kind = {name: value for name, value in row["kind_options"].items() if name not in _OF_ENTRANTS}
    found = {name: row[name] for name in ("label", "inner_steps", "outer_steps")}
    return found | kind | row["problem_options"]


def _named(groups: Sequence[Sequence[Row]]) -> list[Group]:
    """Return groups under words that tell them apart: where two have the same, the settings in which these differ."""
    said = [_words(rows[0]) for rows in groups]
    found = []
    for words, rows in zip(said, groups, strict=True):
        mine = _settings(rows[0])
        others = [_settings(other[0]) for like, other in zip(said, groups, strict=True) if like == words]
        unlike = [name for name, value in mine.items() if any(other.get(name) != value for other in others)]
        own = "".join(f", {name.replace('_', ' ')} {mine[name]}" for name in unlike)
        found.append(Group(words + own, rows))
    return found


def _words(row: Row) -> str:
    options = row["kind_options"]
    islands = f", on {options['islands']} islands" if options.get("islands", 1) > 1 else ""
    if options["fitness"] == "table":
        tasks = numbers.plural(options["tasks"], "task") if options["tasks"] else "all tasks"
        return f"looked up in the table, {tasks}{islands}"
    if options["fitness"] == "train":
        how = "jointly on all classes" if options["net_way"] == "joint" else "by MAML"
        return f"trained from nothing {how}, {options['net_steps']} steps{islands}"
    return _WAYS[options["way"]].format(method=row["label"]) + islands
