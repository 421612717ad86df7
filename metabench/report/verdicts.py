"""Every verdict of the report, from numbers alone: quality, memory, time, cosines, and which variant of a swept method is compared.

Quality is compared in pairs: seeds fix initialisation, noise and batches for all methods, so the difference on one is free of what they
share. Student's t test judges its mean; the methods of a setting share an error of `ALPHA` (Holm 1979). Time is judged by how far two
processes of one cell differ. Bytes are exact. Numbers that are not finite raise ValueError.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from statistics import fmean, median, stdev
from typing import TypeVar

from scipy import special

from metabench.results.statistics import Estimate, paired_differences

ALPHA = 0.05
Setting = TypeVar("Setting", bound=Hashable)
Samples = Mapping[str, Mapping[int, float]]  # Quality by method and seed; failed seeds are missing.


class Word(StrEnum):
    """All verdicts: of quality, of memory and of time."""

    BETTER = "better"
    WORSE = "worse"
    NOT_TOLD_APART = "not told apart"
    SAME = "the same to the digit"
    NONE = "no verdict"
    LESS = "less"
    MORE = "more"
    SAME_BYTES = "the same to the byte"
    FASTER = "faster"
    SLOWER = "slower"
    TIE = "a tie"


@dataclass(frozen=True)
class Verdict:
    """A method's quality against a reference's, over their n shared seeds.

    difference: its mean, with the unadjusted interval. p: of the test, adjusted for the methods of the setting; None without a test.
    """

    word: Word
    difference: Estimate | None
    p: float | None
    n: int

    @property
    def text(self) -> str:
        """The word, with the seeds where they matter."""
        seeds = f"{self.n} seed" if self.n == 1 else f"{self.n} seeds"
        ends = {Word.NOT_TOLD_APART: f" by {seeds}", Word.NONE: f": {seeds if self.n else 'no seed'} shared"}
        return self.word + ends.get(self.word, "")


@dataclass(frozen=True)
class Ranking:
    """The method with the best mean, the verdicts of the other eligible methods against it, and the winner, if there is one."""

    best: str | None
    verdicts: dict[str, Verdict]
    winner: str | None


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that the chance of any false rejection at a level is at most that level. Holm 1979."""
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted = accumulate((min(1.0, p[index] * (len(p) - smaller)) for smaller, index in enumerate(order)), max)
    return [value for _, value in sorted(zip(order, adjusted, strict=True))]


def compare(samples: Samples, reference: str, higher_is_better: bool) -> dict[str, Verdict]:
    """Return each other method's verdict: a paired t test over shared seeds (Student 1908), at least three, adjusted by `holm`.

    Differences of exactly 0 on every seed are `the same to the digit`, outside the adjustment. If all are equal but not 0, up to rounding,
    their spread says nothing about chance: there is no interval, and the test is the sign test, p = 2^(1 - n).
    """
    if reference not in samples:
        raise ValueError(f"the reference {reference!r} is not among the methods {', '.join(samples)}")
    _require_finite(value for sample in samples.values() for value in sample.values())
    theirs = samples[reference]
    methods = [method for method in samples if method != reference]
    differences = paired_differences([(samples[method], theirs) for method in methods])
    found, tested = {}, {}
    for method, difference in zip(methods, differences, strict=True):
        if difference is None or difference.low is None or difference.high is None:
            found[method] = Verdict(Word.NONE, difference, None, difference.n if difference else 0)
        elif difference.value == difference.low == difference.high == 0.0:
            found[method] = Verdict(Word.SAME, difference, None, difference.n)
        else:
            tested[method] = _test(samples[method], theirs, difference)
    for (method, (difference, _)), p in zip(tested.items(), holm([p for _, p in tested.values()]), strict=True):
        word = Word.BETTER if (difference.value > 0) == higher_is_better else Word.WORSE
        found[method] = Verdict(word if p <= ALPHA else Word.NOT_TOLD_APART, difference, p, difference.n)
    return {method: found[method] for method in methods}


def _test(ours: Mapping[int, float], theirs: Mapping[int, float], difference: Estimate) -> tuple[Estimate, float]:
    """Return the difference and its two-sided p; see `compare`."""
    n, shared = difference.n, ours.keys() & theirs.keys()
    values = [ours[seed] - theirs[seed] for seed in shared]
    size = max(max(abs(ours[seed]), abs(theirs[seed])) for seed in shared)
    if max(values) - min(values) <= 4 * sys.float_info.epsilon * size:
        return Estimate(difference.value, None, None, n), 2.0 ** (1 - n)
    t = difference.value / stdev(values) * math.sqrt(n)
    return difference, 2 * float(special.stdtr(n - 1, -abs(t)))


def rank(
    samples: Samples, higher_is_better: bool, eligible: Iterable[str] | None = None, same: Iterable[frozenset[str]] = ()
) -> Ranking:
    """Return the method with the best mean over the seeds that all eligible methods share, and `compare` with it as the reference.

    eligible: by default the methods with the most seeds; those without any take no part. same: groups of methods that are one computation.
    The winner is told apart from every other eligible method that is not the same computation, and there is one. Ties go to the first.

    Simulated with normal data: of tables without a difference (2 to 20 methods, 3 to 10 seeds, correlated, unequal variances) 5 % or less
    name a winner; two equal methods far ahead of the rest reach 5 %. Because the same data choose the best, one or more of m equal methods
    are called worse in 5 % of tables (m = 2) to 18 % (m = 20). A method ahead of 1, 5 and 11 others by d standard errors of the mean
    difference wins, in percent of tables (so 80 % needs d = 4, 6 and 7 with five seeds):
     5 seeds: 62, 14,  3 (d = 3); 84, 42, 18 (d = 4); 99, 93, 78 (d = 6);  20 seeds: 82, 48, 30 (d = 3); 97, 86, 74 (d = 4)
    10 seeds: 76, 37, 18 (d = 3); 94, 76, 60 (d = 4); 100, 100, 99 (d = 6); 50 seeds: 84, 53, 37 (d = 3); 98, 90, 82 (d = 4)
    """
    most = max(map(len, samples.values()), default=0)
    chosen = [one for one in samples if len(samples[one]) == most] if eligible is None else list(eligible)
    measured = {one: samples[one] for one in chosen if samples.get(one)}
    if not measured:
        return Ranking(None, {}, None)
    best = _best(measured, higher_is_better)
    verdicts = compare(measured, best, higher_is_better)
    alike = {method for group in same if best in group for method in group}
    others = [verdict.word for method, verdict in verdicts.items() if method not in alike]
    return Ranking(best, verdicts, best if others and all(word == Word.WORSE for word in others) else None)


def _best(samples: Samples, higher_is_better: bool) -> str:
    """Return the method with the best mean over the seeds that all share; over its own seeds if there are none."""
    shared = set.intersection(*map(set, samples.values()))
    means = {method: fmean(sample[seed] for seed in shared or sample) for method, sample in samples.items()}
    return max(means, key=lambda method: means[method] if higher_is_better else -means[method])


def choose(variants: Mapping[str, Mapping[int, float]]) -> str:
    """Return the variant of one method with the least mean validation loss, among those with the most seeds, over the seeds they share.

    variants: validation loss by label and seed; failed seeds are missing. The first is chosen of equal ones and if all failed. Only the
    chosen one takes part in `rank`, so ten variants are not ten chances to win by test quality. But if noise of validation and test
    correlate by 0.5, ten variants of noise win against one equal method in 6 %, not 2.5 %. Raises ValueError without variants.
    """
    if not variants:
        raise ValueError("no variant to choose from")
    most = max(map(len, variants.values()))
    complete = {label: losses for label, losses in variants.items() if len(losses) == most}
    _require_finite(loss for losses in variants.values() for loss in losses.values())
    return _best(complete, higher_is_better=False) if most else next(iter(complete))


def same_computation(entries: Mapping[str, Mapping[int, tuple[str | None, int | None]]]) -> list[frozenset[str]]:
    """Return the groups of two methods or more whose digest and peak bytes are equal on every seed they share, at least one.

    entries: (digest, peak bytes) by method and seed; None, not known, equals nothing. A method joins the first group that it equals.
    """

    def equal(one: str, other: str) -> bool:
        shared = [(entries[one][seed], entries[other][seed]) for seed in entries[one].keys() & entries[other].keys()]
        return bool(shared) and all(ours == theirs and None not in ours for ours, theirs in shared)

    groups: list[list[str]] = []
    for method in entries:
        group = next((group for group in groups if all(equal(method, other) for other in group)), [])
        if not group:
            groups.append(group)
        group.append(method)
    return [frozenset(group) for group in groups if len(group) > 1]


def memory_verdict(ours: float | None, theirs: float | None) -> Word:
    """Return whether `ours` is less than `theirs`, in bytes. The allocator counts exactly, so a difference of one byte is one."""
    if ours is None or theirs is None:
        return Word.NONE
    _require_finite((ours, theirs))
    return Word.SAME_BYTES if ours == theirs else Word.LESS if ours < theirs else Word.MORE


@dataclass(frozen=True)
class Floor:
    """The noise between processes: a ratio of times is a tie if its |log| is at most `threshold`. pairs: how many A/A pairs say so."""

    threshold: float
    pairs: int


MARGIN = math.log(1.15)
"""Ratios nearer to 1 are ties whatever the noise: between two processors the default suite's ratios differed by up to 15 %."""

OUTLYING = 5.0
"""A pair counts no more, for the settings that it is not of, than this many medians: a hiccup in one is none in the others."""


def floor(setting: Setting, pairs: Mapping[Setting, Sequence[tuple[float, float]]], comparisons: int) -> Floor | None:
    """Return the noise floor of a setting, or None where none of its own cells was timed twice.

    pairs: seconds of two processes of the same cell, for all settings of one place. comparisons: how many ratios the setting judges. The
    threshold is the largest |log ratio| of the setting's own pairs, at least q times the root mean square of all m log ratios, and at least
    `MARGIN`. With lognormal noise a ratio over that root mean square is Student's t with m degrees of freedom; q is its quantile at
    1 - `ALPHA` / 4 per comparison (two tails, two runs; Bonferroni), 51 with one pair and two comparisons, 3.0 with ten pairs. So where
    times are equal and noise is alike in all settings, two runs of one commit agree in 19 of 20 settings; if noise differs by up to a
    factor of 9, in 17. Of three pairs or more, none counts as more than `OUTLYING` times the median |log ratio|: a hiccup of the machine in
    one setting does not make ties in all. Of the default suite's 60 ratios two runs on one machine agreed on 54 without it and the margin,
    on 58 with them, and so did each of them with a run on another processor.
    """
    _require_finite((seconds for some in pairs.values() for pair in some for seconds in pair), positive=True)
    logarithms = {one: [math.log(first / second) for first, second in some] for one, some in pairs.items()}
    if not (own := logarithms.get(setting)):
        return None
    every = [abs(value) for some in logarithms.values() for value in some]
    q = float(special.stdtrit(len(every), 1 - ALPHA / (4 * max(1, comparisons))))
    most = OUTLYING * median(every) if len(every) > 2 else math.inf
    pooled = math.hypot(*(min(value, most) for value in every)) / math.sqrt(len(every))
    return Floor(max(*map(abs, own), q * pooled, MARGIN), len(every))


def time_verdict(ratio: float | None, floor: Floor | None) -> Word:
    """Return the verdict on a ratio of times to the reference; none without a floor."""
    if ratio is None or floor is None:
        return Word.NONE
    _require_finite((ratio,), positive=True)
    return Word.TIE if abs(math.log(ratio)) <= floor.threshold else Word.FASTER if ratio < 1 else Word.SLOWER


def digits(ratio: float, floor: Floor | None) -> str:
    """Write a ratio of times to the digit that the floor leaves certain to one unit, three at most, a tie as 'about 1': '0.8', '0.79'."""
    _require_finite((ratio,), positive=True)
    if floor is None:
        return f"{ratio:.2g} (noise not measured)"
    if time_verdict(ratio, floor) == Word.TIE:
        return "about 1"
    error = ratio * math.expm1(max(floor.threshold, 1e-3))
    decimals = max(-math.floor(math.log10(ratio)), math.floor(-math.log10(error)))
    while round(ratio, decimals) == 1:
        decimals += 1
    return f"{round(ratio, decimals):.{max(0, decimals)}f}"


def cosine_words(estimate: Estimate) -> str | None:
    """Return 'not told apart from 0' where the interval of a cosine contains 0, else None."""
    low, high = estimate.low, estimate.high
    return f"{Word.NOT_TOLD_APART} from 0" if low is not None and high is not None and low <= 0 <= high else None


def _require_finite(values: Iterable[float], positive: bool = False) -> None:
    for value in values:
        if not math.isfinite(value) or (positive and value <= 0):
            raise ValueError(f"a verdict needs finite{' and positive' if positive else ''} numbers, not {value}")
