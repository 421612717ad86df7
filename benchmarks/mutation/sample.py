"""Which mutants are tried: those of a method's own file, and of the lines elsewhere that its certificate makes it run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mutation.kinds import returns_of
from mutation.mutants import Mutant, mutants_of
from mutation.scope import Equivalent, excluded
from mutation.server import Baseline

FOLDERS = ("metabench/methods", "metabench/autodiff")
Unit = tuple[str, Mutant]
"""A method and a mistake."""
ByFile = Mapping[str, Sequence[Mutant]]


def all_mutants(root: Path) -> dict[str, list[Mutant]]:
    """Return every mutant outside of what is excluded, by file."""
    annotated = [path for folder in ("metabench/core", *FOLDERS) for path in sorted((root / folder).rglob("*.py"))]
    returns = returns_of(annotated)
    files = [str(path.relative_to(root)) for path in annotated if path.parent.name != "core"]
    found = {file: mutants_of((root / file).read_text(), file, returns) for file in files}
    return {file: [mutant for mutant in of if not excluded(mutant)] for file, of in found.items()}


def sample(
    name: str,
    own_file: str,
    baseline: Baseline,
    mutants: ByFile,
    equivalents: Sequence[Equivalent],
    most: int,
    seed: int,
) -> list[Unit]:
    """Return at most so many mutants of a method, half of its own file where there are so many, none of them equivalent.

    The order does not depend on the other mutants: one that turns out equivalent, or is there no more, is replaced and the others stay.
    """

    def matters(mutant: Mutant) -> bool:
        return not any(one.is_of(mutant, name) for one in equivalents)

    elsewhere = []
    for file, lines in sorted(baseline.lines.items()):
        ran = set(lines)
        if file != own_file:
            elsewhere += [
                one for one in mutants.get(file, []) if ran & set(range(one.line, one.last_line + 1)) and matters(one)
            ]
    own = [mutant for mutant in mutants[own_file] if matters(mutant)]
    chosen = drawn(own, max(most - most // 2, most - len(elsewhere)), f"{seed} {name}")
    chosen += drawn(elsewhere, most - len(chosen), f"{seed} {name}")
    return [(name, mutant) for mutant in chosen]


def drawn(mutants: Sequence[Mutant], how_many: int, seed: str) -> list[Mutant]:
    """Return so many mutants, or all, the operators in turn."""

    def by_chance(*of: object) -> bytes:
        return hashlib.sha256(repr((seed, *of)).encode()).digest()

    groups: dict[str, list[Mutant]] = {}
    for mutant in sorted(mutants, key=lambda mutant: by_chance(mutant.key)):
        groups.setdefault(mutant.operator, []).append(mutant)
    operators = sorted(groups, key=by_chance)
    turns = max(map(len, groups.values()), default=0)
    found = [groups[operator][turn] for turn in range(turns) for operator in operators if turn < len(groups[operator])]
    return found[:how_many]


def survivors_of(report: Path, mutants: ByFile, equivalents: Sequence[Equivalent]) -> list[Unit]:
    """Return the survivors of an earlier report that are mutants of today's source and not equivalent."""
    known = {mutant.key: mutant for of in mutants.values() for mutant in of}
    rows = [row for row in json.loads(report.read_text())["mutants"] if row["outcome"] == "survived"]
    keys = [tuple(row[name] for name in ("file", "function", "original", "mutated", "occurrence")) for row in rows]
    found = [(row["method"], known[key]) for row, key in zip(rows, keys, strict=True) if key in known]
    return [(name, mutant) for name, mutant in found if not any(one.is_of(mutant, name) for one in equivalents)]


def unreached(mutants: ByFile, of: Mapping[str, Baseline]) -> list[tuple[str, str, int]]:
    """Return (file, function, mutants in it) for the functions of which no certificate runs a line."""
    ran = {(file, line) for baseline in of.values() for file, lines in baseline.lines.items() for line in lines}
    total: Counter[tuple[str, str]] = Counter()
    reached = set()
    for mutant in (one for found in mutants.values() for one in found if one.function):
        place = mutant.file, mutant.function
        total[place] += 1
        if any((mutant.file, line) in ran for line in range(mutant.line, mutant.last_line + 1)):
            reached.add(place)
    return [(*place, count) for place, count in total.items() if place not in reached]
