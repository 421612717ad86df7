"""What rows of options that validation chose from a grid say of the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHOSEN, _AT_EDGE = "chosen ", " at the edge"
"""What the summary of a row says of an axis that was tuned: its value, and 1 where that is the least or greatest of its grid."""


def is_tuned(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is of options chosen from a grid."""
    return bool(row["kind_options"].get("over"))


def chosen(row: Mapping[str, Any]) -> dict[str, tuple[float, bool]]:
    """Return the values that validation chose for the tasks trained on, by axis, and whether each is the least or greatest of its grid."""
    summary = row["meta_summary"] or {}
    axes = [name.removeprefix(_CHOSEN) for name in summary if name.startswith(_CHOSEN) and "," not in name]
    return {axis: (summary[_CHOSEN + axis], bool(summary.get(axis + _AT_EDGE))) for axis in axes}


def chosen_words(row: Mapping[str, Any]) -> str:
    """Return the values that validation chose, and which are at the edge of the grid."""
    return ", ".join(f"{axis} {value:g}" + " (edge of the grid)" * edge for axis, (value, edge) in chosen(row).items())
