"""Statistics over seeds: intervals, fits and comparisons.

A mean over seeds has an interval of Student's t, widened so that it keeps its coverage on skewed data; a paired difference has the plain
one, because the difference of two methods that are equally good is symmetric. Coverage was measured, not assumed: see `COVERAGE` and
`PAIRED_COVERAGE`. Bootstrap intervals are too short for the few seeds of a suite: of five exponential values the percentile bootstrap
covers the mean in 78 %, and BCa in 80 %. Fewer than `MINIMUM_SEEDS` seeds give no interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95
MINIMUM_SEEDS = 3
# Plain t covers the mean of five exponential values in 88 %, of five lognormal ones in 82 %. The mean of skewed data lies beyond the limit
# on the side of the longer tail (Johnson 1978), which is why that side is lengthened. These are the smallest round numbers that cover 92 %
# for every distribution and number of seeds in COVERAGE; on normal data and five seeds the interval is 1.7 times as long as plain t.
LEVEL = 0.98
TAIL = 1.5
# How often an interval of n seeds covers the mean. The lognormal distribution has sigma = 1, the gamma distribution shape 4.
COVERAGE = {
    3: {"normal": 0.98, "gamma": 0.98, "exponential": 0.95, "lognormal": 0.93},
    5: {"normal": 0.99, "gamma": 0.98, "exponential": 0.96, "lognormal": 0.92},
    10: {"normal": 0.99, "gamma": 0.99, "exponential": 0.98, "lognormal": 0.96},
}
# The same of the difference of two methods that are equally good, whose values have these distributions.
PAIRED_COVERAGE = {
    3: {"normal": 0.95, "gamma": 0.95, "exponential": 0.97, "lognormal": 0.98},
    5: {"normal": 0.95, "gamma": 0.95, "exponential": 0.97, "lognormal": 0.98},
    10: {"normal": 0.95, "gamma": 0.95, "exponential": 0.96, "lognormal": 0.97},
}


@dataclass(frozen=True)
class Estimate:
    """A point with its 95 % interval; `low` and `high` are None where there are too few seeds. n counts the seeds."""

    value: float
    low: float | None
    high: float | None
    n: int

    def within(self, least: float, greatest: float) -> Estimate:
        """Return the estimate with its interval cut to values that are possible."""
        if self.low is None or self.high is None:
            return self
        return dataclasses.replace(self, low=max(self.low, least), high=min(self.high, greatest))


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
    """Return the mean over seeds of each sample with its interval: mean - a q s / sqrt(n) to mean + b q s / sqrt(n).

    q is the quantile of Student's t with n - 1 degrees of freedom at `LEVEL` and s the standard deviation; a and b are 1, except that the
    side of the longer tail is multiplied by 1 + `TAIL` |g|, where g is the third central moment over s cubed. The interval has no width
    only if all values are equal. Raises ValueError for an empty sample or one that is not finite. Student 1908; Johnson 1978, section 2.
    """
    return [_interval(sample, LEVEL, TAIL) for sample in samples]


def _interval(sample: Sequence[float], level: float, tail: float) -> Estimate:
    _require_finite(sample)
    n, least, greatest = len(sample), float(min(sample)), float(max(sample))
    # fsum rounds once, the quotient again: the mean of equal values could differ from them by a last digit.
    mean = least if least == greatest else min(max(math.fsum(sample) / n, least), greatest)
    if n < MINIMUM_SEEDS:
        return Estimate(mean, None, None, n)
    if least == greatest:
        return Estimate(mean, mean, mean, n)
    # In units of the range, so that no square underflows.
    deviations = [(value - mean) / (greatest - least) for value in sample]
    deviation = math.sqrt(math.fsum(one**2 for one in deviations) / (n - 1))
    skewness = math.fsum(one**3 for one in deviations) / n / deviation**3
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * deviation * (greatest - least) / math.sqrt(n)
    low = mean - half * (1 + tail * max(0.0, -skewness))
    high = mean + half * (1 + tail * max(0.0, skewness))
    return Estimate(mean, min(low, math.nextafter(mean, -math.inf)), max(high, math.nextafter(mean, math.inf)), n)


def paired_differences(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[Estimate | None]:
    """Return, for each pair of methods (quality by seed), the mean of the first minus the second over shared seeds, with its interval.

    A seed fixes initialisation, noise and the order of batches for all methods, so pairing removes what they share. The interval is that
    of Student's t: it excludes zero exactly where the paired t test has p below 5 %. None where the two share no seed.
    """
    samples = [[ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())] for ours, theirs in pairs]
    return [_interval(sample, CONFIDENCE, 0.0) if sample else None for sample in samples]


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


def _require_finite(values: Sequence[float]) -> None:
    if len(values) == 0:
        raise ValueError("a sample without seeds has no mean")
    if not np.all(np.isfinite(np.asarray(values, dtype=np.float64))):
        raise ValueError("a sample holds a value that is not finite")
