"""Axes that speak in units: limits, and ticks at round bytes, seconds and counts."""

from __future__ import annotations

import math
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from metabench.report import numbers
from metabench.report.figure import Axis

# Shorter ranges are linear: there would be fewer than two round ticks.
_LOG_FROM = {"bytes": 2.5, "seconds": 2.5, "ratio": 6.0}
_UNITS = {"bytes": numbers.byte_unit, "seconds": numbers.second_unit}


def set_scale(
    axes: Axes, axis: Axis, values: list[float], ticks: list[float], which: str, before: float, after: float
) -> None:
    """Set limits that keep parts of the axis free before and after the data, and ticks that carry units."""
    target = axes.xaxis if which == "x" else axes.yaxis
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    log = axis.log and all(value > 0 for value in values)
    low, high = min(values), max(values)
    if log and high / low < _LOG_FROM.get(axis.kind, 0.0):
        log = False
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = math.log10(low), math.log10(high)
        pad = 0.07 * (high - low) or 0.15
    else:
        pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - pad, high + pad
    whole = (high - low) / (1 - before - after)
    limits = (low - before * whole, high + after * whole)
    if log:
        set_limits(10 ** limits[0], 10 ** limits[1])
        places = ticks or log_ticks(axis.kind, 10**low, 10**high)
    else:
        set_limits(*limits)
        places = ticks or linear_ticks(axis.kind, low, high)
    target.set_ticks(places, [tick_text(axis.kind, place, places) for place in places])
    target.set_minor_locator(NullLocator())


def log_ticks(kind: str, low: float, high: float) -> list[float]:
    """Return at most seven round values between low and high: powers of two for bytes, 1-2-5 for others, decades over long ranges."""
    at_most = 6
    if kind == "bytes":
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        step = max(1, math.ceil((last - first + 1) / at_most))
        return [2.0**power for power in range(first, last + 1, step)] or [low, high]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [
            digit * 10.0**power
            for power in range(first, last + 1)
            for digit in digits
            if low <= digit * 10.0**power <= high
        ]
        if 2 <= len(found) <= at_most:
            return found
    decades = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
    step = max(1, math.ceil(len(decades) / at_most))
    return [10.0**power for power in decades[::step]] or [low, high]


def linear_ticks(kind: str, low: float, high: float) -> list[float]:
    """Return about five round values between low and high, round in the unit that will be printed."""
    size = _UNITS[kind](high)[1] if kind in _UNITS else 1.0
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])
    return [place * size for place in locator.tick_values(low / size, high / size) if low <= place * size <= high]


def tick_text(kind: str, value: float, places: list[float]) -> str:
    """Write a tick in its unit."""
    if kind in _UNITS:
        unit, size = _UNITS[kind](value)
        return f"{value / size:.4g} {unit}"
    if kind == "count":
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{value / size:.4g}{letter}"
        return f"{value:.4g}"
    if kind == "ratio":
        return f"{value:.4g}×"
    if kind == "error":
        return numbers.significant(value, 1) if value >= 0.01 else numbers.significant(value, 1).replace("1×", "")
    spacing = min((abs(after - before) for before, after in pairwise(places)), default=1.0)
    decimals = max(0, -math.floor(math.log10(spacing) + 1e-9)) if spacing > 0 else 2
    if abs(spacing * 10**decimals - round(spacing * 10**decimals)) > 1e-6:
        decimals += 1
    return numbers.fixed(value, min(decimals, 6))
