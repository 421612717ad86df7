"""A trained optimiser as a file: the optimisers by group of parameters, their meta-parameters, and a card that says where they are from.

The file is a torch archive of plain values and tensors; nothing in it is executed when it is read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core import tree
from metabench.core.errors import MetabenchError, missing_file, unknown
from metabench.core.lazy import torch
from metabench.core.problem import check_alike
from metabench.core.types import Tree
from metabench.learned.declared import Chosen, read_optimiser

_FORMAT = "metabench learned optimiser"
_VERSION = 1
_SHIPPED = Path(__file__).with_name("trained")


@dataclass(frozen=True)
class Exported:
    """A trained optimiser.

    Attributes:
        texts: by group of parameters, the optimiser with its options as the option `optimiser` of a problem names it; {'': text} for one.
        meta: the meta-parameters by name, those of a group with its name and a point before theirs; on the CPU.
        card: what it was trained on, by which method, and where: plain values by name.
        source: the file's path, for messages.
    """

    texts: Mapping[str, str]
    meta: Tree
    card: Mapping[str, Any]
    source: str = ""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the meta-parameters."""
        return next(iter(self.meta.values())).dtype

    def chosen(self) -> dict[str, Chosen]:
        """Return the optimisers by group of parameters; raise MetabenchError if there is no such optimiser or option here."""
        return {group: read_optimiser(text) for group, text in self.texts.items()}

    def of_group(self, group: str) -> Tree:
        """Return the meta-parameters of a group, under the names that its optimiser knows."""
        prefix = f"{group}." if group else ""
        return {name.removeprefix(prefix): leaf for name, leaf in self.meta.items() if name.startswith(prefix)}

    def content(self) -> bytes:
        """Return the file."""
        kept = {name: leaf.detach().cpu().clone() for name, leaf in self.meta.items()}
        values = {
            "format": _FORMAT,
            "version": _VERSION,
            "optimisers": dict(self.texts),
            "meta": kept,
            "card": dict(self.card),
        }
        archive = io.BytesIO()
        torch.save(values, archive)
        return archive.getvalue()


def shipped() -> dict[str, Path]:
    """Return the trained optimisers that come with metabench, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.pt"))}


def located(source: str | Path) -> Path:
    """Return the file of a trained optimiser, given its path or the name of one that comes with metabench.

    Raises:
        MetabenchError: there is neither; the nearest name is given.
    """
    known = shipped()
    if str(source) in known:
        return known[str(source)]
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix or path.parent != Path():
        raise missing_file("trained optimiser", path)
    raise unknown("trained optimiser", str(source), known)


def read_exported(source: str | Path) -> Exported:
    """Return a trained optimiser from its file, or by name.

    Raises:
        MetabenchError: there is none, it cannot be read or is of another version, its optimiser is not known, or its meta-parameters are
            not that optimiser's.
    """
    path = located(source)
    what = f"trained optimiser '{path}'"
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise MetabenchError(f"{what} holds something else than tensors, numbers and texts, and is not read") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise MetabenchError(f"{what} is cut short, or not a file that `metabench export` wrote") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise MetabenchError(f"{what} is not a file that `metabench export` wrote")
    if values["version"] != _VERSION:
        raise MetabenchError(f"{what} is of version {values['version']}, expected {_VERSION}: export it again")
    found = Exported(values["optimisers"], values["meta"], values["card"], str(path))
    try:
        expected = {group: one.draw(torch.Generator()) for group, one in found.chosen().items()}
    except MetabenchError as error:
        raise MetabenchError(f"{what}: {error}") from error
    for group, like in expected.items():
        there = found.of_group(group)
        check_alike(there, tree.cast(like, found.dtype), f"{what} has", f"'{found.texts[group]}' has", "meta-parameter")
    return found


def needed(source: str) -> list[Path]:
    """Return the file of a trained optimiser, for the hash of a cell that begins with it; none for an empty text."""
    return [located(source)] if source else []


def check_source(source: str) -> None:
    """Raise MetabenchError if a text that is not empty names no trained optimiser. Reads nothing."""
    needed(source)
