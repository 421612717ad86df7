"""What is computed once before cells, in jobs of their own: what a problem shares between many, and the parts of a kind of experiment."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.kind import Part
from metabench.core.options import build
from metabench.kinds import kind as kind_named
from metabench.problems import problem
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import part_hash, problem_hash

PROBLEM = ""
"""The name under which what the problem prepares stands among the parts of a cell."""


@dataclass(frozen=True)
class Preparation:
    """What is prepared for a cell and seed; for any cell that agrees with it, it is the same.

    Attributes:
        cell: one of those that need it.
        seed: one of its seeds.
        settings: on which it depends, by `Problem.prepares` or `Part.settings`.
        part: of the kind of experiment; None: the problem prepares it.
        needs: what it reads.
    """

    cell: Cell
    seed: int
    settings: Mapping[str, Any]
    part: Part | None = None
    needs: tuple[Preparation, ...] = ()

    @property
    def name(self) -> str:
        """The name of the part, empty for what the problem prepares."""
        return self.part.name if self.part else PROBLEM

    @functools.cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits over all that decides it: its source, too, and what it reads."""
        cell, place = self.cell, (self.cell.device, self.cell.kernels, self.cell.threads)
        identity: tuple[Any, ...] = (cell.problem, cell.dataset, dict(self.settings), self.seed, *place)
        if self.part:
            run = (cell.size, cell.problem_options, cell.inner_steps, cell.outer_steps, cell.dtype)
            identity += (cell.kind, self.name, cell.method, cell.method_options, *run)
            identity += (part_hash(cell, self.part.picks), *(one.hash for one in self.needs))
        else:
            identity += (problem_hash(cell.problem, tuple(cell.plugins)),)
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """The line that says what is prepared."""
        where = f"{self.cell.problem}/{self.cell.dataset}/{self.cell.size}"
        whose = [f"{self.cell.method} · {self.name}"] if self.part else []
        return " · ".join([where, *whose, f"seed {self.seed}"])


def preparations_of(cell: Cell, seed: int) -> dict[str, Preparation]:
    """Return what is prepared for a cell and seed by name: by its problem, then by its kind of experiment; those that others need first.

    Raises:
        MetabenchError: a part needs one that does not stand before it, or two have one name.
    """
    kind, owner = kind_named(cell.kind, cell.plugin_files), problem(cell.problem, cell.plugin_files)
    found: dict[str, Preparation] = {}
    settings = owner.prepares(cell.size, build(owner.card.options, cell.problem_options, f"problem '{cell.problem}'"))
    if settings:
        found[PROBLEM] = Preparation(cell, seed, dict(settings))
    parts = kind.prepares(build(kind.options, cell.kind_options, f"kind '{cell.kind}'")) if kind.prepares else ()
    for part in parts:
        if part.name in found or not set(part.needs) <= found.keys():
            needed = ", ".join(part.needs) or "none"
            raise MetabenchError(
                f"kind '{cell.kind}': two parts '{part.name}', or one before what it needs ({needed})"
            )
        needs = [found[name] for name in (PROBLEM, *part.needs) if name in found]
        found[part.name] = Preparation(cell, seed, dict(part.settings), part, tuple(needs))
    return found


def preparations(cells: Iterable[Cell]) -> dict[str, Preparation]:
    """Return all that is prepared for cells, by hash, each once."""
    found: dict[str, Preparation] = {}
    for cell in cells:
        for seed in cell.seeds:
            for one in preparations_of(cell, seed).values():
                found.setdefault(one.hash, one)
    return found


def folders_of(prepared: Path | None, cell: Cell, seed: int) -> dict[str, Path]:
    """Return the folders of what is prepared for a cell and seed, by name, in that of a whole suite; none if there is none."""
    if prepared is None:
        return {}
    return {name: prepared / one.hash for name, one in preparations_of(cell, seed).items()}
