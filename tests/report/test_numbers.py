"""How numbers are written."""

from __future__ import annotations

import pytest

from metabench.report import numbers
from metabench.report.drawing.ticks import linear_ticks, log_ticks, tick_text
from metabench.results.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (2**20 - 1, "1024 KiB"),
        (2**20, "1.00 MiB"),
        (3 * 2**30, "3.00 GiB"),
        (None, "–"),
    ],
)
def test_bytes(value: int | None, text: str) -> None:
    assert numbers.memory(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (2.5e-9, "2.50 ns"),
        (3.4e-5, "34.0 µs"),
        (0.0123, "12.3 ms"),
        (1.0, "1.00 s"),
        (754.0, "754 s"),
        (None, "–"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert numbers.seconds(value) == text


def test_quartiles_are_in_the_unit_of_the_median() -> None:
    assert numbers.seconds_with_quartiles(1.02, 0.9876, 1.04) == "1.02 s [0.988, 1.04]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (-0.5, "−0.500"),
        (99_999.0, "1.00×10⁵".replace("1.00", "1.0")),
        (3e-16, "3.0×10⁻¹⁶"),
        (float("nan"), "–"),
    ],
)
def test_significant_digits(value: float, text: str) -> None:
    assert numbers.significant(value) == text


def test_an_interval_decides_its_digits() -> None:
    assert numbers.estimate(Estimate(0.81234, 0.80511, 0.81902, 5)) == "0.812 [0.805, 0.819]"
    assert numbers.estimate(Estimate(81.234, 80.1, 82.9, 5)) == "81.2 [80.1, 82.9]"
    assert numbers.estimate(Estimate(-0.00001, -0.02, 0.02, 5), signed=True) == "0.000 [−0.020, 0.020]"
    assert numbers.estimate(Estimate(0.81234, None, None, 2)) == "0.8123"


def test_a_cosine_near_one_says_how_much_it_lacks() -> None:
    assert numbers.cosine(1.0 - 2.3e-6) == "1 − 2.3×10⁻⁶"
    assert numbers.cosine(0.97) == "0.970"
    assert numbers.cosine(1.0) == "1"


@pytest.mark.parametrize(("low", "high"), [(1.2, 9.7), (0.003, 41.0), (1e-9, 1e4), (900.0, 1e6), (3.0, 3.3)])
@pytest.mark.parametrize("kind", ["bytes", "seconds", "error", "count"])
def test_ticks_are_few_within_limits_and_told_apart(kind: str, low: float, high: float) -> None:
    for ticks in (log_ticks(kind, low, high), linear_ticks(kind, low, high)):
        assert 1 <= len(ticks) <= 8
        assert all(low <= tick <= high for tick in ticks)
    texts = [
        tick_text(kind, tick, []) for tick in log_ticks(kind, max(low, 1.0) if kind == "bytes" else low, max(high, 8.0))
    ]
    assert len(set(texts)) == len(texts)


def test_an_estimate_far_below_its_columns_digits_is_not_printed_as_zero() -> None:
    tiny = Estimate(-3.1e-17, -4e-17, -2.2e-17, 3)
    assert numbers.estimate(tiny, decimals=6) == "−3.1×10⁻¹⁷ [−4.0×10⁻¹⁷, −2.2×10⁻¹⁷]"
    assert numbers.estimate(Estimate(0.0, 0.0, 0.0, 3), decimals=3) == "0.000 [0.000, 0.000]"
