"""What is not mutated, or counts for nothing: source without a hypergradient in it, and mutants that mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mutation.mutants import Mutant

EXCLUDED: dict[tuple[str, str], str] = {
    ("metabench/autodiff/traced/missing_derivatives.py", ""): "words of error messages",
    ("metabench/autodiff/traced/memory_floor.py", ""): "memory bounds: nothing is computed with them",
    ("metabench/autodiff/traced/liveness.py", ""): "order of operations, for memory alone; a wrong order does not run",
    ("metabench/autodiff/traced/memory_reuse.py", ""): "memory reuse: its own tests check a flat graph against the plain one",
    ("metabench/autodiff/traced/execution.py", ""): "torch.compile and CUDA graphs, which no certificate turns on",
    ("metabench/methods/__init__.py", ""): "finding methods",
    ("metabench/methods/bome.py", "_limit"): "a declaration: under which options the limit is reached",
    ("metabench/methods/ift_nystrom.py", "full_rank"): "a declaration: under which options the limit is reached",
    ("metabench/methods/f2sa.py", "_limit"): "a declaration: under which options the limit is reached",
    ("metabench/methods/ift_neumann.py", "converged"): "a declaration: under which options the limit is reached",
    ("metabench/methods/ift_neumann.py", "converged.enough"): "a declaration: under which options the limit is reached",
}
"""(file, function, or '' for all of it) -> why."""


def excluded(mutant: Mutant) -> bool:
    """Tell whether a mutant lies where no hypergradient is."""
    return (mutant.file, "") in EXCLUDED or (mutant.file, mutant.function) in EXCLUDED


@dataclass(frozen=True)
class Equivalent:
    """A mutant whose hypergradients are those of the original, and why.

    `original` and `mutated` are the innermost statement around the change (of a compound one its header), as a report prints them. Where
    `methods` are named, it is equivalent for those alone: what they share may do more for others.
    """

    file: str
    function: str
    original: str
    mutated: str
    reason: str
    methods: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Which mutant it is, wherever in its function it stands."""
        return self.file, self.function, self.original, self.mutated

    def is_row(self, row: dict[str, Any]) -> bool:
        """Tell whether it is the mutant of a report's row."""
        found = tuple(row[name] for name in ("file", "function", "original", "mutated"))
        return found == self.key and (not self.methods or row["method"] in self.methods)

    def is_of(self, mutant: Mutant, method: str) -> bool:
        """Tell whether it is this mutant of this method."""
        return mutant.key[:-1] == self.key and (not self.methods or method in self.methods)


def read_equivalents(path: Path) -> list[Equivalent]:
    """Return the entries of a data file.

    Raises:
        ValueError: an entry lacks a key, has another, or gives no reason.
    """
    entries: list[dict[str, Any]] = yaml.safe_load(path.read_text()) or []
    wanted = {"file", "function", "original", "mutated", "reason"}
    for place, entry in enumerate(entries):
        if set(entry) - {"methods"} != wanted or not entry["reason"]:
            raise ValueError(
                f"{path.name}, entry {place}: has {sorted(entry)}, expected {sorted(wanted)}, a reason, and 'methods' or not"
            )
    return [Equivalent(**{**entry, "methods": tuple(entry.get("methods", ()))}) for entry in entries]


def stale(equivalents: Iterable[Equivalent], mutants: Sequence[Mutant]) -> list[Equivalent]:
    """Return the entries that are no mutant of today's source."""
    known = {mutant.key[:-1] for mutant in mutants}
    return [one for one in equivalents if one.key not in known]
