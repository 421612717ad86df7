"""Intervals over seeds, aggregates over tasks, fits, fronts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from metabench.results.statistics import (
    COVERAGE,
    PAIRED_COVERAGE,
    Estimate,
    intervals,
    line,
    paired_differences,
    pareto_front,
    power_law,
)

Array = np.ndarray[Any, np.dtype[np.float64]]

DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], Array], float]] = {
    "normal": (lambda generator, shape: generator.normal(size=shape), 0.0),
    "gamma": (lambda generator, shape: generator.gamma(4.0, size=shape), 4.0),
    "exponential": (lambda generator, shape: generator.exponential(size=shape), 1.0),
    "lognormal": (lambda generator, shape: generator.lognormal(0.0, 1.0, shape), math.exp(0.5)),
}
CASES = [(n, name) for n, covered in COVERAGE.items() for name in covered]


def interval(values: list[float]) -> Estimate:
    return intervals([values])[0]


def covered(found: Sequence[Estimate | None], mean: float) -> float:
    return sum(
        one is not None and one.low is not None and one.low <= mean <= (one.high or mean) for one in found
    ) / len(found)


@pytest.mark.parametrize(("n", "name"), CASES)
def test_an_interval_covers_the_mean_as_often_as_is_said_of_normal_and_of_skewed_data(n: int, name: str) -> None:
    draw, mean = DISTRIBUTIONS[name]
    share = covered(intervals(draw(np.random.default_rng(n), (5000, n)).tolist()), mean)
    assert share == pytest.approx(COVERAGE[n][name], abs=0.013)
    assert share >= 0.92 - 0.008


@pytest.mark.parametrize(("n", "name"), CASES)
def test_a_paired_interval_covers_no_difference_as_often_as_is_said(n: int, name: str) -> None:
    generator = np.random.default_rng(n)
    ours, theirs = (DISTRIBUTIONS[name][0](generator, (5000, n)).tolist() for _ in range(2))
    pairs = [(dict(enumerate(one)), dict(enumerate(other))) for one, other in zip(ours, theirs, strict=True)]
    assert covered(paired_differences(pairs), 0.0) == pytest.approx(PAIRED_COVERAGE[n][name], abs=0.013)


def test_of_symmetric_values_the_interval_is_that_of_t_at_98_percent_and_a_tail_lengthens_its_own_side() -> None:
    found = interval([0.1, 0.2, 0.3, 0.4, 0.5])
    expected = stats.t.interval(0.98, 4, loc=0.3, scale=stats.sem([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    right, left = interval([0.0, 0.0, 0.0, 0.0, 1.0]), interval([0.0, 0.0, 0.0, 0.0, -1.0])
    assert right.low is not None and right.high is not None and right.high - right.value > 2 * (right.value - right.low)
    assert (left.low, left.high) == (-right.high, -right.low)


def test_a_paired_interval_excludes_zero_where_the_paired_t_test_does() -> None:
    values = np.random.default_rng(5).normal(0.7, 1.0, (200, 5))
    for sample in values.tolist():
        (found,) = paired_differences([(dict(enumerate(sample)), dict.fromkeys(range(5), 0.0))])
        assert found is not None and found.low is not None and found.high is not None
        assert (found.low > 0 or found.high < 0) == (stats.ttest_1samp(sample, 0.0).pvalue < 0.05)


@pytest.mark.parametrize("n", [1, 2])
def test_two_seeds_have_a_mean_and_no_interval(n: int) -> None:
    assert interval([0.5] * n) == Estimate(0.5, None, None, n)


@pytest.mark.parametrize("value", [0.1, 100.0, 1e300])
def test_only_equal_values_have_an_interval_without_width(value: float) -> None:
    assert interval([value] * 3) == Estimate(value, value, value, 3)
    found = interval([value, value, value, math.nextafter(value, 0.0)])
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    bounded = interval([100.0, 100.0, 100.0, 100.0, 99.95])
    assert bounded.low is not None and bounded.high is not None and bounded.low < 99.95 and bounded.high > 100.0


def test_an_interval_does_not_depend_on_its_neighbours() -> None:
    generator = np.random.default_rng(1)
    samples = [generator.normal(size=size).tolist() for size in (3, 5, 5, 2, 3, 5)]
    assert intervals(samples) == [interval(sample) for sample in samples]


def test_a_value_that_is_not_finite_is_no_sample() -> None:
    with pytest.raises(ValueError, match="not finite"):
        interval([0.1, float("nan"), 0.2])


def test_pairing_removes_what_seeds_share() -> None:
    seeds = {seed: float(value) for seed, value in enumerate(np.random.default_rng(3).normal(0, 10, 6))}
    found = paired_differences([({seed: value + 0.25 for seed, value in seeds.items()}, seeds), ({1: 1.0}, {2: 2.0})])
    assert found[0] is not None and found[0].n == 6
    assert found[0].low == pytest.approx(0.25) and found[0].high == pytest.approx(0.25)
    assert found[1] is None


def test_a_power_law_gives_back_its_exponent_and_agrees_with_numpy_on_its_error() -> None:
    x = np.array([10.0, 100.0, 1000.0, 1e4])
    exact = power_law(x.tolist(), (3.0 * x**0.5).tolist())
    assert exact is not None
    assert exact.slope == pytest.approx(0.5, abs=1e-12)
    assert exact.constant == pytest.approx(3.0, rel=1e-12)
    assert exact.standard_error == pytest.approx(0.0, abs=1e-12)
    noisy = 3.0 * x**0.5 * np.array([1.1, 0.9, 1.2, 1.0])
    found = power_law(x.tolist(), noisy.tolist())
    design = np.stack([np.ones(4), np.log(x)], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, np.log(noisy), rcond=None)
    error = np.sqrt(residual[0] / 2 * np.linalg.inv(design.T @ design)[1, 1])
    assert found is not None and found.n == 4
    assert found.slope == pytest.approx(solution[1], rel=1e-12)
    assert found.standard_error == pytest.approx(error, rel=1e-10)


def test_a_fit_needs_two_places_and_positive_values() -> None:
    assert line([4.0, 4.0], [1.0, 2.0]) is None
    assert power_law([1.0, 2.0], [0.0, 1.0]) is None
    two = line([1.0, 3.0], [2.0, 8.0])
    assert two is not None and two.slope == 3.0 and two.constant == -1.0 and two.standard_error is None


def test_nothing_beats_a_point_of_the_pareto_front_on_both_axes() -> None:
    generator = np.random.default_rng(4)
    cost, quality = generator.random(50).tolist(), generator.random(50).tolist()
    front = pareto_front(cost, quality, higher_is_better=True)
    for index in range(50):
        beaten = any(cost[other] <= cost[index] and quality[other] > quality[index] for other in range(50))
        beaten |= any(cost[other] < cost[index] and quality[other] >= quality[index] for other in range(50))
        assert (index in front) is not beaten
    assert pareto_front([1.0, 2.0], [0.5, 0.1], higher_is_better=False) == [0, 1]
    assert pareto_front([1.0, 1.0], [0.5, 0.5], higher_is_better=True) == [0]
