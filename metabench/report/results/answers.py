"""The answer of a suite: for each setting the best quality and its least cost, and each method at a glance."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from metabench.report.results.entries import Entry, Setting, Suite, comparable
from metabench.report.results.exactness import NO_HYPERGRADIENT
from metabench.results.statistics import MINIMUM_SEEDS, Estimate, probability_of_improvement


@dataclass(frozen=True)
class Answer:
    """What one setting answers.

    best: highest mean quality (lowest where the metric is to be small), None where none was measured. tied: entries whose interval overlaps
    that of the best, itself included. Both are sought among entries whose every seed finished, if there is any: a mean over survivors says
    nothing about a method that fails. least_memory, fastest: the cheapest of those that compute a hypergradient. For a setting that
    measures cost only, they are the cheapest at its largest number of inner steps, and `exact_memory` and `exact_time` are the cheapest
    that are exact for the unrolled hypergradient. idle_ties: training without any hypergradient ties with the best.
    """

    setting: Setting
    best: Entry | None
    tied: tuple[Entry, ...]
    least_memory: Entry | None
    fastest: Entry | None
    exact_memory: Entry | None
    exact_time: Entry | None
    idle_ties: bool
    inner_steps: int | None
    runs: int
    failures: dict[str, int]


@dataclass(frozen=True)
class Glance:
    """One label over all settings.

    Ratios are to the suite's baseline: median, least and greatest over its own settings, one value each; ratio_settings counts them.
    cosine: the least `direction_cosine`. samples: of each seed, where the method draws.
    """

    label: str
    best_or_tied: int
    quality_settings: int
    improvement: Estimate | None
    improvement_tasks: int
    memory_ratio: tuple[float, float, float] | None
    time_ratio: tuple[float, float, float] | None
    ratio_settings: int
    cosine: float | None
    own_error: float | None
    samples: int | None
    ok: int
    runs: int
    failures: dict[str, int]


def answer_setting(setting: Setting, entries: list[Entry]) -> Answer:
    """Answer one setting from its entries."""
    runs = sum(entry.seeds for entry in entries)
    failures = total_failures(entries)
    measured = [entry for entry in entries if entry.quality is not None]
    if measured:
        sign = 1.0 if measured[0].higher_is_better else -1.0
        eligible = [entry for entry in measured if entry.ok == entry.seeds] or measured
        best = max(eligible, key=lambda entry: sign * _quality(entry).value)
        tied = tuple(entry for entry in eligible if entry is best or _quality(entry).overlaps(_quality(best)))
        working = [entry for entry in tied if entry.target != NO_HYPERGRADIENT]
        idle = any(entry.target == NO_HYPERGRADIENT for entry in tied)
        cheapest = (_least(working, "peak_bytes"), _least(working, "time_median"))
        return Answer(setting, best, tied, *cheapest, None, None, idle, None, runs, failures)
    steps = max((entry.inner_steps for entry in entries), default=None)
    working = [
        entry
        for entry in entries
        if entry.target != NO_HYPERGRADIENT and entry.inner_steps == steps and not entry.failed
    ]
    exact = [entry for entry in working if entry.exact and entry.target == "unrolled"]
    return Answer(
        setting,
        None,
        (),
        _least(working, "peak_bytes"),
        _least(working, "time_median"),
        _least(exact, "peak_bytes"),
        _least(exact, "time_median"),
        False,
        steps,
        runs,
        failures,
    )


def answers(suite: Suite) -> list[Answer]:
    """Answer every setting, in the suite's order."""
    return [answer_setting(setting, entries) for setting, entries in suite.settings.items()]


def glances(suite: Suite, found: list[Answer]) -> list[Glance]:
    """Return each label over all settings, in the suite's order. The chance of improvement is over the method without hypergradient."""
    reference = reference_label(suite)
    references = {comparable(entry): entry for entry in suite.entries if entry.label == reference}
    tied = {(id(entry)) for answer in found for entry in answer.tied}
    grouped: dict[str, list[Entry]] = {label: [] for label in suite.styles}
    for entry in suite.entries:
        grouped[entry.label].append(entry)
    return [_glance(label, entries, reference, references, tied) for label, entries in grouped.items()]


def reference_label(suite: Suite) -> str:
    """Return the label that chances of improvement refer to: the method without hypergradient, or the baseline where it did not run."""
    idle = [entry.label for entry in suite.entries if entry.target == NO_HYPERGRADIENT]
    return idle[0] if idle else suite.baseline


def total_failures(entries: list[Entry]) -> dict[str, int]:
    """Return the number of runs of each status that is not ok."""
    total: dict[str, int] = {}
    for entry in entries:
        for status, number in entry.failures.items():
            total[status] = total.get(status, 0) + number
    return total


def _glance(
    label: str, entries: list[Entry], reference: str, references: dict[tuple[object, ...], Entry], tied: set[int]
) -> Glance:
    quality = [entry for entry in entries if entry.setting.trains]
    pairs = []
    for entry in quality:
        other = references.get(comparable(entry))
        if other is None or label == reference or not other.quality_by_seed:
            continue
        ours = _outcomes(entry, other.higher_is_better)
        if ours:
            pairs.append((ours, _outcomes(other, other.higher_is_better)))
    # Settings with too few seeds would take the interval from all the others.
    pairs = [pair for pair in pairs if min(map(len, pair)) >= MINIMUM_SEEDS] or pairs
    cosines = [value for entry in entries if (value := entry.direction_cosine) is not None]
    errors = [value for entry in entries if (value := entry.gradient["target_error"]) is not None]
    return Glance(
        label,
        len({entry.setting for entry in quality if id(entry) in tied}),
        len({entry.setting for entry in quality}),
        probability_of_improvement(pairs) if pairs else None,
        len(pairs),
        _spread(entries, "memory_ratio"),
        _spread(entries, "time_ratio"),
        len({entry.setting for entry in entries if entry.memory_ratio is not None or entry.time_ratio is not None}),
        min(cosines, default=None),
        max(errors, default=None),
        max((entry.samples or 0 for entry in entries if entry.draws), default=None),
        sum(entry.ok for entry in entries),
        sum(entry.seeds for entry in entries),
        total_failures(entries),
    )


def _outcomes(entry: Entry, higher_is_better: bool) -> list[float]:
    """Return the quality of each run, higher better, with -inf for a run that failed; runs that are `unsupported` are none."""
    sign = 1.0 if higher_is_better else -1.0
    failed = sum(number for status, number in entry.failures.items() if status != "unsupported")
    return [sign * value for value in entry.quality_by_seed.values()] + [-math.inf] * failed


def by_setting(entries: list[Entry], name: str) -> dict[Setting, float]:
    """Return one number per setting, the median over its entries: a sweep of options or inner steps counts once."""
    found: dict[Setting, list[float]] = {}
    for entry in entries:
        value = getattr(entry, name)
        if value is not None:
            found.setdefault(entry.setting, []).append(value)
    return {setting: float(statistics.median(values)) for setting, values in found.items()}


def _spread(entries: list[Entry], name: str) -> tuple[float, float, float] | None:
    values = by_setting(entries, name).values()
    measured = [value for entry in entries if (value := getattr(entry, name)) is not None]
    return (statistics.median(values), min(measured), max(measured)) if measured else None


def _least(entries: list[Entry], name: str) -> Entry | None:
    found = [entry for entry in entries if getattr(entry, name) is not None]
    return min(found, key=lambda entry: getattr(entry, name), default=None)


def _quality(entry: Entry) -> Estimate:
    if entry.quality is None:
        raise ValueError(f"'{entry.label}' has no quality")
    return entry.quality
