"""What the rows decide, setting by setting: which options stand for a method, which methods compute the same, and every verdict.

The words themselves come from `metabench.report.verdicts` alone.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.report import numbers, verdicts
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.exactness import NO_HYPERGRADIENT
from metabench.report.results.settings import Group, Place, Row, Setting, Task
from metabench.report.verdicts import Floor, Ranking, Verdict, Word
from metabench.results.statistics import MINIMUM_SEEDS


@dataclass(frozen=True)
class Outcome:
    """What one group of comparable entries decides.

    Attributes:
        group: what they share: setting, inner steps and outer steps.
        entries: one for each method, with the options that stand for it.
        tried: by method, the labels of every option set that was run, where there are several.
        same: the labels that are the same computation here: equal bytes, and a hypergradient equal to the bit.
        ranking: verdicts on quality against the best; None where nothing was trained.
        against_baseline: verdicts on quality against the baseline, by label.
        floor: the noise floor of times here; None where the baseline was not run twice.
        baseline: the label that ratios and `against_baseline` compare with.
    """

    group: Group
    entries: tuple[Entry, ...]
    tried: Mapping[str, tuple[str, ...]]
    same: tuple[frozenset[str], ...]
    ranking: Ranking | None
    against_baseline: Mapping[str, Verdict]
    floor: Floor | None
    baseline: str

    @property
    def setting(self) -> Setting:
        """The setting."""
        return self.group[0]

    def twins(self, label: str) -> list[Entry]:
        """Return the entries that are the same computation as `label`, in their order."""
        return [
            one for one in self.entries for group in self.same if {label, one.label} <= group and one.label != label
        ]

    def stands_for(self, entry: Entry) -> Entry:
        """Return the first entry that is the same computation as `entry`, itself if there is no other."""
        return next((one for one in self.entries for group in self.same if {entry.label, one.label} <= group), entry)

    def _timed_as_baseline(self, entry: Entry) -> bool:
        """Whether the ratio of times is of one computation with itself: whatever it is, it is noise."""
        return entry.label != self.baseline and any(one.label == self.baseline for one in self.twins(entry.label))

    def at_the_top(self) -> list[Entry]:
        """Return the entries that are not told apart from the best, itself included; none below the seeds that a verdict takes."""
        ranking = self.ranking
        if ranking is None or not self.decided:
            return []
        level = (Word.NOT_TOLD_APART, Word.SAME)
        return [
            one
            for one in self.entries
            if one.label == ranking.best or ((own := ranking.verdicts.get(one.label)) and own.word in level)
        ]

    @property
    def decided(self) -> bool:
        """Whether there are seeds enough for verdicts on quality."""
        ranking = self.ranking
        if ranking is None or ranking.best is None:
            return False
        best = next(one for one in self.entries if one.label == ranking.best)
        return len(best.quality_by_seed) >= MINIMUM_SEEDS

    def time_verdict(self, entry: Entry) -> str:
        """Return the verdict on an entry's time against the baseline; empty without a ratio or a floor, and for the same computation."""
        if self._timed_as_baseline(entry):
            return ""
        found = verdicts.time_verdict(entry.time_ratio, self.floor)
        return "" if found == Word.NONE else str(found)

    def time_words(self, entry: Entry) -> str:
        """Return the ratio of an entry's time to the baseline's, with the digits that the noise floor allows."""
        if entry.time_ratio is None:
            return numbers.ABSENT
        if self._timed_as_baseline(entry):
            return "1×"
        if self.floor is None:
            return numbers.ratio(entry.time_ratio, 2)
        return f"{verdicts.digits(entry.time_ratio, self.floor)}×"


@functools.lru_cache(maxsize=1)
def outcomes(suite: Suite) -> tuple[Outcome, ...]:
    """Return the outcome of every group, in the order of the suite's settings, by inner steps."""
    groups: dict[Group, list[Entry]] = {}
    for entries in suite.settings.values():
        for entry in entries:
            groups.setdefault(entry.group, []).append(entry)
    chosen = {group: _chosen(entries) for group, entries in groups.items()}
    preferred: dict[tuple[Task, str], str] = {}
    for group, by_method in chosen.items():
        if group[0].trains:
            for method, entry in by_method.items():
                preferred.setdefault((group[0].task, method), entry.label)
    floors = _floors(suite, {group: max(1, len(by_method) - 1) for group, by_method in chosen.items()})
    found = []
    for group, entries in groups.items():
        by_method = chosen[group] if group[0].trains else _preferred(entries, preferred)
        found.append(_outcome(suite, group, entries, tuple(by_method.values()), floors[group]))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def by_group(suite: Suite) -> Mapping[Group, Outcome]:
    """Return the outcomes by their group."""
    return {outcome.group: outcome for outcome in outcomes(suite)}


def _outcome(
    suite: Suite, group: Group, every: Sequence[Entry], entries: tuple[Entry, ...], floor: Floor | None
) -> Outcome:
    labels: dict[str, list[str]] = {}
    for entry in every:
        labels.setdefault(entry.method, []).append(entry.label)
    same = tuple(verdicts.same_computation({entry.label: entry.fingerprints for entry in entries}))
    samples = {entry.label: entry.quality_by_seed for entry in entries if entry.quality_by_seed}
    ranking, against = None, {}
    if samples:
        rises = next(entry.higher_is_better for entry in entries if entry.quality_by_seed)
        whole = [entry.label for entry in entries if entry.label in samples and not entry.failures]
        ranking = verdicts.rank(samples, rises, eligible=whole or list(samples), same=same)
        if suite.baseline in samples:
            against = verdicts.compare(samples, suite.baseline, rises)
    tried = {method: tuple(dict.fromkeys(own)) for method, own in labels.items() if len(set(own)) > 1}
    return Outcome(group, entries, tried, same, ranking, against, floor, suite.baseline)


def _chosen(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return the entry that stands for each method: of several option sets the one with the least loss on validation data."""
    by_method: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        by_method.setdefault(entry.method, {})[entry.label] = entry
    return {
        method: variants[verdicts.choose({label: entry.validation_by_seed for label, entry in variants.items()})]
        if len(variants) > 1
        else next(iter(variants.values()))
        for method, variants in by_method.items()
    }


def _preferred(entries: Sequence[Entry], labels: Mapping[tuple[Task, str], str]) -> dict[str, Entry]:
    """Return the entry that stands for each method where nothing was trained: that chosen where its problem was, or the first."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if labels.get((entry.setting.task, entry.method)) == entry.label:
            found[entry.method] = entry
        else:
            found.setdefault(entry.method, entry)
    return found


def _floors(suite: Suite, compared: Mapping[Group, int]) -> dict[Group, Floor | None]:
    """Return the noise floor of every group whose baseline was run twice; the pairs of one place are pooled."""
    again: dict[tuple[Setting, int], list[Row]] = {}
    for row in suite.partners:
        if row["time_median_s"]:
            again.setdefault((Setting.of(row), row["inner_steps"]), []).append(row)
    # Of the experiment that they were timed with: another was timed at another moment.
    first = {
        (entry.setting.key, entry.setting.experiment, entry.inner_steps): entry
        for entry in suite.entries
        if entry.label == suite.baseline and entry.time_median
    }
    pairs: dict[Place, dict[tuple[Any, ...], list[tuple[float, float]]]] = {}
    for (setting, steps), rows in again.items():
        if own := first.get((setting.key, setting.experiment, steps)):
            seconds = statistics.median(row["time_median_s"] for row in rows)
            ratio = suite.rounds.ratio(own.cells, [row["cell"] for row in rows]) if suite.rounds else None
            pair = (ratio, 1.0) if ratio else (own.time_median or seconds, seconds)
            pairs.setdefault(setting.place, {}).setdefault((setting.key, steps), []).append(pair)
    return {
        group: verdicts.floor((group[0].key, group[1]), pairs.get(group[0].place, {}), number)
        for group, number in compared.items()
    }


def telling(found: Sequence[Outcome]) -> dict[Task, Outcome]:
    """Return the outcome that stands for each problem: of those trained, or else of all, that of the largest model and most steps."""
    by_task: dict[Task, list[Outcome]] = {}
    for outcome in found:
        by_task.setdefault(outcome.setting.task, []).append(outcome)

    def weight(outcome: Outcome) -> tuple[float, ...]:
        sizes = max((entry.n_params or 0 for entry in outcome.entries), default=0)
        return (outcome.setting.trains, sizes, len(outcome.entries), outcome.group[1])

    return {task: max(own, key=weight) for task, own in by_task.items()}


def estimating(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries of methods that estimate a hypergradient."""
    return [entry for entry in entries if entry.target != NO_HYPERGRADIENT]
