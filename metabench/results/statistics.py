"""Statistics over seeds: intervals, aggregates over tasks, fits and comparisons.

Every interval here is a nominal 95 % percentile bootstrap over seeds, with a fixed generator, so that equal rows give equal intervals.
The percentile method is chosen over BCa because BCa needs a jackknife, which is degenerate with the three to five seeds of a suite. With
so few seeds any bootstrap interval is too short: `COVERAGE` says by how much. Fewer than `MINIMUM_SEEDS` seeds give no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MINIMUM_SEEDS = 3
# How often an interval of n seeds covers the mean of normal data. For three seeds the bounds are the least and the greatest of the three
# (any one seed three times has probability 1/27 > 2.5 %), hence 1 - 2/8 exactly; the others are simulated in tests/results.
COVERAGE = {3: 0.75, 5: 0.84, 8: 0.89}
# How often the intervals of two equal methods of three seeds each lie apart: 2 * 3! * 3! / 6!.
APART_BY_CHANCE = 0.1
RESAMPLES = 2000
_GENERATOR_SEED = 20240
_BATCH = 64

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A point with its nominal 95 % interval; `low` and `high` are None where there are too few seeds. n counts the seeds."""

    value: float
    low: float | None
    high: float | None
    n: int

    def overlaps(self, other: Estimate) -> bool:
        """Return whether the two intervals overlap; False if either has none."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Fit:
    """A least-squares line: `slope` with its standard error (None for two points), the constant, and the number of points.

    For `power_law`, y = constant * x ** slope; for `line`, y = constant + slope * x.
    """

    slope: float
    standard_error: float | None
    constant: float
    n: int


def intervals(samples: Sequence[Sequence[float]]) -> list[Estimate]:
    """Return the mean over seeds of each sample with its interval, computed together; no sample's depends on the others.

    Raises ValueError for an empty sample or one that is not finite.
    """
    estimates: dict[int, Estimate] = {}
    by_seeds: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        _require_finite(sample)
        by_seeds.setdefault(len(sample), []).append(index)
    for n, indices in by_seeds.items():
        data = np.array([samples[index] for index in indices], dtype=np.float64)
        means = data.mean(axis=1)
        if n < MINIMUM_SEEDS:
            estimates.update(
                {index: Estimate(float(mean), None, None, n) for index, mean in zip(indices, means, strict=True)}
            )
            continue
        low, high = _bootstrap_means(data)
        for index, *numbers in zip(indices, means, low, high, strict=True):
            mean, lower, upper = (float(number) for number in numbers)
            # Rounding may put the bounds of equal values a last digit beside their mean.
            estimates[index] = Estimate(mean, min(lower, mean), max(upper, mean), n)
    return [estimates[index] for index in range(len(samples))]


def _bootstrap_means(data: Array) -> tuple[Array, Array]:
    """Return lower and upper bounds for the mean of each row. All rows use the same draws of seeds, so no row depends on another."""
    lows, highs = [], []
    for start in range(0, len(data), _BATCH):
        result = stats.bootstrap(
            (data[start : start + _BATCH],),
            np.mean,
            axis=-1,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(_GENERATOR_SEED),
        )
        lows.append(np.atleast_1d(result.confidence_interval.low))
        highs.append(np.atleast_1d(result.confidence_interval.high))
    return np.concatenate(lows), np.concatenate(highs)


def probability_of_improvement(tasks: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Estimate:
    """Return the chance that a run of the first method beats a run of the second, averaged over tasks (ties count half).

    tasks: for each task, the two methods' values per seed, higher better. A run that failed is -inf: it loses against every run that
    finished. Seeds are resampled separately for each method and task (Agarwal et al. 2021, section 4.3: the Mann-Whitney U statistic
    over the number of pairs).
    """
    samples = [(np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)) for ours, theirs in tasks]
    if not samples:
        raise ValueError("no task to aggregate")
    for ours, theirs in samples:
        for values in (ours, theirs):
            _require_finite(np.where(values == -math.inf, 0.0, values))
    wins = [_beats(ours, theirs) for ours, theirs in samples]
    value = float(np.mean([won.mean() for won in wins]))
    n = min(min(won.shape) for won in wins)
    if n < MINIMUM_SEEDS:
        return Estimate(value, None, None, n)
    generator = np.random.default_rng(_GENERATOR_SEED)
    draws = np.zeros(RESAMPLES)
    for won in wins:
        # How often each seed is drawn says all that a mean needs.
        ours_drawn, theirs_drawn = (_times_drawn(generator, seeds) for seeds in won.shape)
        draws += np.sum((ours_drawn @ won) * theirs_drawn, axis=1) / (won.size * len(wins))
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def _times_drawn(generator: np.random.Generator, seeds: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return how often each seed is drawn in each resample, with replacement: shape (resamples, seeds)."""
    drawn = generator.integers(0, seeds, (RESAMPLES, seeds, 1))
    return np.asarray((drawn == np.arange(seeds)).sum(axis=1), dtype=np.int64)


def _beats(ours: Array, theirs: Array) -> Array:
    """Return, for each pair of runs, 1 where ours is better, 0.5 where they are equal, else 0."""
    first, second = ours[:, None], theirs[None, :]
    return np.asarray((first > second) + 0.5 * (first == second), dtype=np.float64)


def paired_differences(pairs: Sequence[tuple[dict[int, float], dict[int, float]]]) -> list[Estimate | None]:
    """Return, for each pair of methods (quality by seed), the mean of the first minus the second over shared seeds, with its interval.

    A seed fixes initialisation, noise and the order of batches for all methods, so pairing removes what they share. None where the two
    share no seed.
    """
    samples = [[ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())] for ours, theirs in pairs]
    found = iter(intervals([sample for sample in samples if sample]))
    return [next(found) if sample else None for sample in samples]


def power_law(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """Fit y = a * x ** b by least squares on logarithms; the slope is b. None below two distinct x, or where a value is not positive."""
    if any(not value > 0 for value in (*x, *y)):
        return None
    fit = line([math.log(value) for value in x], [math.log(value) for value in y])
    return None if fit is None else Fit(fit.slope, fit.standard_error, math.exp(fit.constant), fit.n)


def line(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """Fit y = a + b * x by least squares; None below two distinct x. The standard error of b needs three points."""
    if len(set(x)) < 2:
        return None
    n = len(x)
    centre_x, centre_y = math.fsum(x) / n, math.fsum(y) / n
    across = math.fsum((value - centre_x) ** 2 for value in x)
    slope = math.fsum((one - centre_x) * (other - centre_y) for one, other in zip(x, y, strict=True)) / across
    constant = centre_y - slope * centre_x
    if n == 2:
        return Fit(slope, None, constant, n)
    residual = math.fsum((other - constant - slope * one) ** 2 for one, other in zip(x, y, strict=True))
    return Fit(slope, math.sqrt(residual / (n - 2) / across), constant, n)


def pareto_front(cost: Sequence[float], quality: Sequence[float], higher_is_better: bool) -> list[int]:
    """Return the indices of the points that no other beats on both cost (lower) and quality, from cheapest to most expensive.

    Of points with equal cost and equal quality the first is kept.
    """
    sign = 1.0 if higher_is_better else -1.0
    order = sorted(range(len(cost)), key=lambda index: (cost[index], -sign * quality[index], index))
    front: list[int] = []
    best = -math.inf
    for index in order:
        if sign * quality[index] > best:
            best = sign * quality[index]
            front.append(index)
    return front


def _require_finite(values: Sequence[float] | Array) -> None:
    if len(values) == 0:
        raise ValueError("a sample without seeds has no mean")
    if not np.all(np.isfinite(np.asarray(values, dtype=np.float64))):
        raise ValueError("a sample holds a value that is not finite")
