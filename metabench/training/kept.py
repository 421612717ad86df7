"""The meta-parameters that the runs of a cell lead to, in a file beside its rows: `metabench export` makes an optimiser of them.

The file is written before the rows are, and belongs to those with its time: a row says when its seed began, and so does the file. It is no
output of a job: without it the rows are whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_bytes_atomically
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Tree

_VERSION = 1
_UNREADABLE = (RuntimeError, OSError, EOFError, KeyError, TypeError, pickle.UnpicklingError)
MOST_BYTES = 4 * 2**20
"""The largest meta-parameters of a seed that are kept."""


@dataclass(frozen=True)
class Trained:
    """What a seed's run led to.

    Attributes:
        row: the columns known before it ran: cell, method, source, time.
        options: every option of the problem that was trained on.
        meta: the meta-parameters, on the CPU; None where they are larger than `MOST_BYTES`.
        n_bytes: their size.
    """

    row: Mapping[str, Any]
    options: Mapping[str, Any]
    meta: Tree | None
    n_bytes: int


@dataclass
class Keeper:
    """The file of a cell, written anew after every seed.

    Attributes:
        path: the file.
        spec: the cell's spec as text.
        row: the columns of the seed that runs.
    """

    path: Path
    spec: str
    row: Mapping[str, Any] = field(default_factory=dict)
    _seeds: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, done: Collection[int]) -> None:
        """Remove what another run kept; of seeds that are `done`, this one's, it stays."""
        with contextlib.suppress(*_UNREADABLE):
            values = torch.load(self.path, map_location="cpu", weights_only=True) if done else {}
            if values and (values["version"], values["spec"]) == (_VERSION, self.spec):
                self._seeds = [one for one in values["seeds"] if one["row"]["seed"] in done]
        if not self._seeds:
            self.path.unlink(missing_ok=True)

    def keep(self, problem: Problem, meta: Tree) -> None:
        """Write the file with what the present seed's run led to."""
        size = sum(leaf.numel() * leaf.element_size() for leaf in meta.values())
        # Of a view, torch would save all that it is a view of.
        kept = {name: leaf.detach().cpu().clone() for name, leaf in meta.items()} if size <= MOST_BYTES else None
        options = dataclasses.asdict(problem.setting.options)
        self._seeds.append({"row": dict(self.row), "options": options, "meta": kept, "n_bytes": size})
        archive = io.BytesIO()
        torch.save({"version": _VERSION, "spec": self.spec, "seeds": self._seeds}, archive)
        write_bytes_atomically(self.path, archive.getvalue())


def kept_file(rows: Path) -> Path:
    """Return where the meta-parameters of a row file's cell are kept."""
    return rows.with_suffix(".meta.pt")


def read_kept(rows: Path) -> tuple[str, list[Trained]]:
    """Return the cell's spec and what its seeds led to.

    Raises:
        MetabenchError: there is no such file beside the rows, or it cannot be read.
    """
    path = kept_file(rows)
    if not path.is_file():
        raise MetabenchError(f"no meta-parameters are kept beside '{rows}': run its cell again, of a kind that trains")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if values["version"] != _VERSION:
            raise MetabenchError(f"'{path}' is of version {values['version']}, expected {_VERSION}: run its cell again")
        return values["spec"], [Trained(**one) for one in values["seeds"]]
    except _UNREADABLE as error:
        raise MetabenchError(f"'{path}' holds no meta-parameters that can be read: run its cell again") from error
