"""A cell's method, and its label with options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabench.core.method import Method
from metabench.core.options import changed
from metabench.methods import method
from metabench.suite.plan.cell import Cell


def method_of(cell: Cell) -> Method:
    """Return the cell's method, its plugins included."""
    return method(cell.method, [Path(path) for path in cell.plugins])


def options_text(options: Any) -> str:
    """Return the options that differ from their defaults as 'key=value, ...'."""
    return ", ".join(f"{name}={_short(value)}" for name, value in changed(options).items())


def label(name: str, options: Any) -> str:
    """Return a method's name in tables and figures: the name, with the options that differ from their defaults."""
    text = options_text(options)
    return f"{name} ({text})" if text else name


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
