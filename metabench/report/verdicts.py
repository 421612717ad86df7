"""Every verdict of the report, from numbers alone: quality, memory, time, cosines, and which variant of a swept method is compared.

Quality is compared in pairs: a seed fixes initialisation, noise and batches for all methods, so the difference on a shared seed is free of
what they share. Its mean is judged by Student's t test, and the methods of a setting share an error of `ALPHA` (Holm 1979). Time is judged
by how far two processes of the same cell differ. Bytes are exact. Numbers that are not finite raise ValueError.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from scipy import special

from metabench.results.statistics import Estimate, paired_differences

ALPHA = 0.05
Setting = TypeVar("Setting", bound=Hashable)
Samples = Mapping[str, Mapping[int, float]]
"""Quality by method and seed; failed seeds are missing."""


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
    """A method's quality against that of a reference.

    difference: mean over shared seeds of its quality minus the reference's, with the unadjusted interval; None without shared seeds. p: of
    the test, adjusted for the methods of the setting: at most `ALPHA` where told apart; None where none was made. n: shared seeds.
    """

    word: Word
    difference: Estimate | None
    p: float | None
    n: int

    @property
    def text(self) -> str:
        """The word, with the seeds where they are the reason."""
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
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        largest = max(largest, min(1.0, p[index] * (len(p) - rank)))
        adjusted[index] = largest
    return adjusted


def compare(samples: Samples, reference: str, higher_is_better: bool) -> dict[str, Verdict]:
    """Return the verdict of each other method: a paired t test over shared seeds (Student 1908), adjusted by `holm`. Nothing below three seeds.

    Differences of exactly 0 on every seed are `the same to the digit`, outside the adjustment. If all are equal but not 0, up to rounding,
    their spread says nothing about chance: the difference has no interval, and the test is the sign test, p = 2^(1 - n). Raises ValueError
    for a value that is not finite and for a reference without samples of that name.
    """
    if reference not in samples:
        raise ValueError(f"the reference {reference!r} is not among the methods {', '.join(samples)}")
    _require_finite(value for sample in samples.values() for value in sample.values())
    theirs = samples[reference]
    methods = [method for method in samples if method != reference]
    differences = dict(zip(methods, paired_differences([(samples[one], theirs) for one in methods]), strict=True))
    found: dict[str, Verdict] = {}
    tested: dict[str, tuple[Estimate, float]] = {}
    for method, difference in differences.items():
        if difference is None or difference.low is None or difference.high is None:
            found[method] = Verdict(Word.NONE, difference, None, difference.n if difference else 0)
        elif difference.value == difference.low == difference.high == 0.0:
            found[method] = Verdict(Word.SAME, difference, None, difference.n)
        else:
            tested[method] = _test(samples[method], theirs, difference)
    for (method, (difference, _)), p in zip(tested.items(), holm([p for _, p in tested.values()]), strict=True):
        good = (difference.value > 0) == higher_is_better
        word = Word.NOT_TOLD_APART if p > ALPHA else Word.BETTER if good else Word.WORSE
        found[method] = Verdict(word, difference, p, difference.n)
    return {method: found[method] for method in methods}


def _test(ours: Mapping[int, float], theirs: Mapping[int, float], difference: Estimate) -> tuple[Estimate, float]:
    """Return the difference and its two-sided p; see `compare`."""
    shared = ours.keys() & theirs.keys()
    values = [ours[seed] - theirs[seed] for seed in shared]
    rounding = 4 * sys.float_info.epsilon * max(max(abs(ours[seed]), abs(theirs[seed])) for seed in shared)
    if max(values) - min(values) <= rounding:
        return Estimate(difference.value, None, None, difference.n), 2.0 ** (1 - difference.n)
    t = difference.value / (np.std(values, ddof=1) / math.sqrt(difference.n))
    return difference, 2 * float(special.stdtr(difference.n - 1, -abs(t)))


def rank(
    samples: Samples,
    higher_is_better: bool,
    eligible: Iterable[str] | None = None,
    same: Iterable[frozenset[str]] = (),
) -> Ranking:
    """Return the method with the best mean over the seeds that all eligible methods share, and `compare` with it as the reference.

    eligible: by default the methods with the most seeds. same: groups of methods that are one computation. The winner is told apart from
    every other eligible method that is not the same computation, and there is at least one of them. Of equal means the first is the best.

    Measured on normal data: at most 5 % of tables without a difference (2 to 20 methods, 3 to 10 seeds, any correlation or variances) name
    a winner; 5 % is reached by two equal methods far ahead of the rest. A method ahead of 1, 5 and 11 equal ones by d standard errors of
    the mean difference wins in the following share of tables, so that 80 % needs d = 4, 6 and 7 with five seeds:

    | seeds | d = 3            | d = 4            | d = 6               |
    |     5 | 62 %, 14 %,  3 % | 84 %, 42 %, 18 % |  99 %,  93 %,  78 % |
    |    10 | 76 %, 37 %, 18 % | 94 %, 76 %, 60 % | 100 %, 100 %,  99 % |
    |    20 | 82 %, 48 %, 30 % | 97 %, 86 %, 74 % | 100 %, 100 %, 100 % |
    |    50 | 84 %, 53 %, 37 % | 98 %, 90 %, 82 % | 100 %, 100 %, 100 % |
    """
    most = max(map(len, samples.values()), default=0)
    chosen = [one for one in samples if len(samples[one]) == most] if eligible is None else list(eligible)
    measured = {one: samples[one] for one in chosen if samples.get(one)}
    if not measured:
        return Ranking(None, {}, None)
    _require_finite(value for sample in measured.values() for value in sample.values())
    best = _best(measured, higher_is_better)
    verdicts = compare(measured, best, higher_is_better)
    alike = {method for group in same if best in group for method in group}
    others = [verdict.word for method, verdict in verdicts.items() if method not in alike]
    won = bool(others) and all(word == Word.WORSE for word in others)
    return Ranking(best, verdicts, best if won else None)


def _best(samples: Samples, higher_is_better: bool) -> str:
    """Return the method with the best mean over the seeds that all share; over its own seeds if there are none."""
    shared = set.intersection(*(set(sample) for sample in samples.values()))
    sign = 1.0 if higher_is_better else -1.0

    def mean(sample: Mapping[int, float]) -> float:
        seeds = shared or set(sample)
        return math.fsum(sample[seed] for seed in seeds) / len(seeds)

    return max(samples, key=lambda method: sign * mean(samples[method]))


def choose(variants: Mapping[str, Mapping[int, float]]) -> str:
    """Return the variant of one method with the least mean validation loss, among those with the most seeds, over the seeds they share.

    variants: validation loss by label and seed; failed seeds are missing. Ties go to the first, and so it does if all failed. Only this
    variant takes part in `rank`, so that ten variants are not ten chances to win by test quality. Raises ValueError without variants.
    """
    if not variants:
        raise ValueError("no variant to choose from")
    most = max(map(len, variants.values()))
    complete = {label: losses for label, losses in variants.items() if len(losses) == most}
    _require_finite(loss for losses in variants.values() for loss in losses.values())
    return _best(complete, higher_is_better=False) if most else next(iter(complete))


def same_computation(entries: Mapping[str, Mapping[int, tuple[str | None, int | None]]]) -> list[frozenset[str]]:
    """Return the groups of two methods or more whose digest and peak bytes are equal on every seed they share, at least one.

    entries: (digest, peak bytes) by method and seed; None, not known, equals nothing. A method joins the first group whose members it equals.
    """
    groups: list[list[str]] = []
    for method in entries:
        fitting = (group for group in groups if all(_equal(entries[method], entries[one]) for one in group))
        if (group := next(fitting, None)) is not None:
            group.append(method)
        else:
            groups.append([method])
    return [frozenset(group) for group in groups if len(group) > 1]


def _equal(ours: Mapping[int, tuple[object, object]], theirs: Mapping[int, tuple[object, object]]) -> bool:
    shared = ours.keys() & theirs.keys()
    return bool(shared) and all(ours[seed] == theirs[seed] and None not in ours[seed] for seed in shared)


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


def floor(setting: Setting, pairs: Mapping[Setting, Sequence[tuple[float, float]]], comparisons: int) -> Floor | None:
    """Return the noise floor of a setting, or None where none of its own cells was timed twice.

    pairs: seconds of two processes of the same cell, for all settings of one place. comparisons: how many ratios the setting judges. The
    threshold is the largest |log ratio| of the setting's own pairs, at least q times the root mean square of all m log ratios. With
    lognormal noise a ratio over that root mean square is Student's t with m degrees of freedom. q is its quantile at 1 - `ALPHA` / 4 per
    comparison (two tails, two runs; Bonferroni): where all times are equal and noise is alike in all settings, two runs of one commit give
    the same verdicts in 19 of 20 settings. If noise differs between settings by up to a factor of 9, they do in 17 of 20, and contradict
    each other (faster, slower) in fewer than 1 of 100. For two comparisons, q is 51 with one pair and 3.0 with ten: time several cells twice.
    """
    _require_finite((seconds for some in pairs.values() for pair in some for seconds in pair), positive=True)
    own = [abs(math.log(one / other)) for one, other in pairs.get(setting, ())]
    if not own:
        return None
    logarithms = [math.log(one / other) for some in pairs.values() for one, other in some]
    spread = math.sqrt(math.fsum(value**2 for value in logarithms) / len(logarithms))
    q = float(special.stdtrit(len(logarithms), 1 - ALPHA / (4 * max(1, comparisons))))
    return Floor(max(*own, q * spread), len(logarithms))


def time_verdict(ratio: float | None, floor: Floor | None) -> Word:
    """Return the verdict on a ratio of times to the reference; none without a floor."""
    if ratio is None or floor is None:
        return Word.NONE
    _require_finite((ratio,), positive=True)
    return Word.TIE if abs(math.log(ratio)) <= floor.threshold else Word.FASTER if ratio < 1 else Word.SLOWER


def digits(ratio: float, floor: Floor | None) -> str:
    """Write a ratio of times to the digit that the floor leaves certain to one unit, a tie as 'about 1': '0.8', '0.79'."""
    _require_finite((ratio,), positive=True)
    if floor is None:
        return f"{ratio:.2g} (noise not measured)"
    if time_verdict(ratio, floor) == Word.TIE:
        return "about 1"
    leading = -math.floor(math.log10(ratio))
    error = ratio * math.expm1(floor.threshold)
    decimals = max(leading, math.floor(-math.log10(error))) if error else leading + 3
    while round(ratio, decimals) == 1:
        decimals += 1
    return f"{round(ratio, decimals):.{max(0, decimals)}f}"


def cosine_words(estimate: Estimate) -> str | None:
    """Return 'not told apart from 0' where the interval of a cosine contains 0, else None."""
    if estimate.low is None or estimate.high is None:
        return None
    return f"{Word.NOT_TOLD_APART} from 0" if estimate.low <= 0 <= estimate.high else None


def _require_finite(values: Iterable[float], positive: bool = False) -> None:
    for value in values:
        if not math.isfinite(value) or (positive and value <= 0):
            raise ValueError(f"a verdict needs finite{' and positive' if positive else ''} numbers, not {value}")
