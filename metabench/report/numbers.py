"""How all numbers are written, and the standard words about intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from metabench.results.statistics import CONFIDENCE, COVERAGE, LEVEL, MINIMUM_SEEDS, Estimate, Fit

ABSENT = "–"
_MINUS = "\u2212"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SECOND_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))

_LEAST = min(min(covered.values()) for covered in COVERAGE.values())

# In captions: files of figures and tables are read without the page.
INTERVAL_WORDS = f"{CONFIDENCE * 100:.0f} % interval over seeds (Student's t, widened for skewed data; none below {MINIMUM_SEEDS} seeds)"

# In the glossary.
INTERVAL_CAUTION = (
    f"Student's t over seeds at {LEVEL * 100:.0f} %, longer on the side of the longer tail. Plain t at {CONFIDENCE * 100:.0f} % covers too "
    f"little on skewed data; in simulations of {', '.join(map(str, list(COVERAGE)[:-1]))} and {max(COVERAGE)} seeds this interval covered "
    f"the mean of normal, gamma, exponential and lognormal data in at least {_LEAST * 100:.0f} %. A difference has the plain paired t "
    "interval. Overlapping intervals do not show that two methods are equal: compare their paired difference."
)


def significant(value: float, digits: int = 3) -> str:
    """Write a number with the given significant digits: plain between 0.001 and 100,000, else with a power of ten."""
    if not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if -3 <= exponent < 5:
        return _sign(f"{rounded:.{max(0, digits - 1 - exponent)}f}")
    mantissa = rounded / 10.0**exponent
    return (
        _sign(f"{mantissa:.{0 if digits == 1 else max(1, digits - 2)}f}")
        + f"×10{str(exponent).translate(_SUPERSCRIPT)}"
    )


def fixed(value: float, decimals: int) -> str:
    """Write a number with the given decimals, with a true minus sign and no negative zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else _sign(text)


def _sign(text: str) -> str:
    return text.replace("-", _MINUS)


def count(number: int) -> str:
    """Write a whole number with a thin space between thousands: '12 345'."""
    return f"{number:,}".replace(",", "\u202f")


def plural(number: int, noun: str, many: str | None = None) -> str:
    """Write '1 cell', '3 cells'."""
    return f"{count(number)} {noun if number == 1 else (many or noun + 's')}"


def some(names: Iterable[str], at_most: int = 5, separator: str = ", ", last: str = " and ") -> str:
    """List the first `at_most` distinct names, and say how many more there are."""
    listed = list(dict.fromkeys(names))
    more = f"{last}{len(listed) - at_most} more" if len(listed) > at_most else ""
    return separator.join(listed[:at_most]) + more


def byte_unit(value: float) -> tuple[str, float]:
    """Return the binary unit in which a number of bytes is at least one, and its bytes."""
    power = 0 if value < 1 else min(len(_BYTE_UNITS) - 1, int(math.log2(value) / 10 + 1e-12))
    return _BYTE_UNITS[power], 1024.0**power


def memory(value: float | None) -> str:
    """Write bytes with three significant digits in B, KiB, MiB, GiB or TiB."""
    if value is None:
        return ABSENT
    unit, size = byte_unit(abs(value))
    if unit == "B":
        return f"{value:.0f} B"
    number = value / size
    return f"{number:.0f} {unit}" if abs(number) >= 999.5 else f"{significant(number)} {unit}"


def second_unit(value: float) -> tuple[str, float]:
    """Return the unit of time in which a number of seconds is at least one, and its seconds."""
    return next(
        ((unit, size) for unit, size in _SECOND_UNITS if abs(value) >= size),
        _SECOND_UNITS[-1] if value else _SECOND_UNITS[0],
    )


def seconds(value: float | None) -> str:
    """Write a time with three significant digits in s, ms, µs or ns."""
    if value is None:
        return ABSENT
    unit, size = second_unit(value)
    return f"{significant(value / size)} {unit}"


def seconds_with_quartiles(median: float | None, low: float | None, high: float | None) -> str:
    """Write '3.42 ms [3.40, 3.51]', the quartiles in the unit of the median."""
    if median is None:
        return ABSENT
    if low is None or high is None:
        return seconds(median)
    unit, size = second_unit(median)
    return f"{significant(median / size)} {unit} [{significant(low / size)}, {significant(high / size)}]"


def ratio(value: float | None, digits: int = 3) -> str:
    """Write a ratio as '0.43×'."""
    return ABSENT if value is None else f"{significant(value, digits)}×"


def estimate(found: Estimate | None, signed: bool = False, decimals: int | None = None) -> str:
    """Write '0.812 [0.805, 0.819]', with the digits that the interval warrants; the bare value where there is no interval.

    decimals: what a whole column has, so that its numbers line up.
    """
    if found is None:
        return ABSENT
    plus = "+" if signed and found.value > 0 else ""
    if found.low is None or found.high is None:
        return plus + (significant(found.value, 4) if decimals is None else fixed(found.value, decimals))
    decimals = decimals_for(found) if decimals is None else decimals
    if 0 < max(abs(found.value), abs(found.low), abs(found.high)) < 0.5 * 10.0**-decimals:
        # All would be printed as zero.
        low, high = (significant(bound, 2) for bound in (found.low, found.high))
        return f"{plus}{significant(found.value, 2)} [{low}, {high}]"
    low, high = (fixed(bound, decimals) for bound in (found.low, found.high))
    return f"{plus}{fixed(found.value, decimals)} [{low}, {high}]"


def shared_decimals(column: Iterable[Estimate | None]) -> int | None:
    """Return the decimals that most intervals of a column warrant (the more of two that are equally common); None without intervals."""
    wanted = Counter(decimals_for(found) for found in column if found is not None and found.low is not None)
    return max(wanted, key=lambda decimals: (wanted[decimals], decimals)) if wanted else None


def decimals_for(found: Estimate) -> int:
    """Return the decimals that show two digits of the interval's width, at most six."""
    width = (found.high or 0.0) - (found.low or 0.0)
    if width <= 0:
        return 4 if abs(found.value) < 10 else 2
    return int(min(6, max(0, 1 - math.floor(math.log10(width)))))


def with_error(value: float, error: float) -> str:
    """Write '63.1 ± 8.0': three significant digits of the value, the standard error to the same decimals."""
    largest = max(abs(value), abs(error))
    decimals = 0 if largest == 0 else min(6, max(0, 2 - math.floor(math.log10(largest))))
    return f"{fixed(value, decimals)} ± {fixed(error, decimals)}"


def exponent(fit: Fit) -> str:
    """Write a fitted exponent with its standard error and two decimals or more: '1.02 ± 0.04'."""
    if fit.standard_error is None:
        return fixed(fit.slope, 2)
    decimals = 3 if fit.standard_error < 0.005 else 2
    return f"{fixed(fit.slope, decimals)} ± {fixed(fit.standard_error, decimals)}"


def plain(value: float | None, digits: int = 3) -> str:
    """Write a number with significant digits, or a dash where there is none."""
    return ABSENT if value is None else significant(value, digits)


def cosine(value: float | None) -> str:
    """Write a cosine; one that is nearly 1 is written by how much it lacks: '1 − 2.3×10⁻⁶'."""
    if value is None:
        return ABSENT
    lack = 1.0 - value
    if lack <= 1e-12:
        return "1"
    return f"1 {_MINUS} {significant(lack, 2)}" if lack < 5e-4 else fixed(value, 3)
