"""Whether a method declared exact is exact in the rows: its measured error against its own target is rounding."""

from __future__ import annotations

from metabench.report import numbers

ROUNDING = 1e-8
"""Relative error up to which a difference in float64 counts as rounding. Another order of operations leaves 3e-15, over one step and over
80 alike; the rest is for inner runs that amplify it. A missing or wrongly scaled term leaves far more."""

NO_HYPERGRADIENT = "none"
"""Target of a method that estimates nothing."""


def exceeds(exact: bool, target: str, error: float | None) -> bool:
    """Tell whether what is declared `exact` for `target` errs by more than rounding. error: the largest measured; None: not measured."""
    return exact and target != NO_HYPERGRADIENT and error is not None and error > ROUNDING


def excess(error: float, where: str) -> str:
    """Explain why a label has a double dagger. where: the setting of its largest error."""
    return f"declared exact, and errs by {numbers.significant(error, 2)} against its own target, more than rounding ({where})"
