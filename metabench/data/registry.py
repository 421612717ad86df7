"""The data sets that exist: in `metabench.data.sets`, in other installed packages, in Python files. None is loaded to list them."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from metabench.core.declarations import check_citation, check_fields, check_files
from metabench.core.errors import MetabenchError
from metabench.core.registry import Found, Registry, pick
from metabench.data.contract import Data, Dataset, DatasetCard
from metabench.data.fetch.files import path_of, read_verified
from metabench.data.sets.own_text import is_own_text, own_text

_CARD = {"title": (str,), "task": (str,), "licence": (str,), "sizes": (Mapping,), "citation": (str,), "files": (tuple,)}


def check_dataset(dataset: Dataset, name: str) -> None:
    """Raise MetabenchError if a data set's declaration cannot be listed or planned, or one of its own files is missing."""
    what = f"data set '{name}'"
    if not isinstance(dataset.card, DatasetCard):
        raise MetabenchError(f"{what}: card is {dataset.card!r}, expected a metabench.data.DatasetCard")
    check_fields(dataset.card, _CARD, what)
    for split, size in dataset.card.sizes.items():
        if not isinstance(size, int) or size < 1:
            raise MetabenchError(f"{what}: split '{split}' has the size {size!r}, expected 1 or more")
    if not callable(dataset.decode):
        raise MetabenchError(f"{what}: decode is {dataset.decode!r}, expected a function")
    check_citation(dataset.card.citation, what)
    check_files(dataset.files, what)


DATASETS: Registry[Dataset] = Registry(
    sort="data set",
    kind=Dataset,
    package="metabench.data.sets",
    group="metabench.datasets",
    name=lambda dataset, stem: str(getattr(dataset.card, "name", "")) or stem,
    check=check_dataset,
    hint="name a metabench.data.Dataset",
)


def _declared(plugins: Iterable[Path] = ()) -> Found[Dataset]:
    return DATASETS(plugins)


def datasets(plugins: Iterable[Path] = ()) -> dict[str, DatasetCard]:
    """Return every card by name, in alphabetical order, without the user's own texts ("text:PATH")."""
    return {name: dataset.card for name, dataset in _declared(plugins).items()}


def dataset(name: str, plugins: Iterable[Path] = ()) -> Dataset:
    """Return a declared data set, or a user's own text by "text:PATH".

    Raises MetabenchError, with the nearest name, if there is none of this name; for a user's own text as `own_text`.
    """
    return own_text(name) if is_own_text(name) else pick("data set", name, _declared(plugins))


def card(name: str, plugins: Iterable[Path] = ()) -> DatasetCard:
    """Return the card of a data set; raises MetabenchError as `dataset` does."""
    return dataset(name, plugins).card


def load(name: str, root: Path | None = None, plugins: Iterable[Path] = ()) -> Data:
    """Return the arrays of a data set, every file of its card checked against its sha256; None for a problem without data.

    `root` is the folder of fetched data, by default `files.data_root()`. Raises MetabenchError if the name is unknown,
    if the set has not been fetched (naming the command that does), or if a file is damaged.
    """
    chosen = dataset(name, plugins)
    return chosen.decode(functools.partial(read_verified, chosen.card, root=root))


def is_available(name: str, root: Path | None = None, plugins: Iterable[Path] = ()) -> bool:
    """Tell whether `load` would find the data: files there with the declared size, or the library installed.

    A user's own text is available if it can be read and is long enough. Raises MetabenchError for an unknown name.
    """
    if is_own_text(name):
        try:
            own_text(name)
        except MetabenchError:
            return False
        return True
    chosen = dataset(name, plugins)
    declared = chosen.card
    if declared.embedded or declared.fetched:
        paths = [(path_of(declared, file, root), file.size) for file in declared.files]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)
    if chosen.files:
        return all(path.is_file() for path in chosen.files)
    return not declared.library or importlib.util.find_spec(declared.library) is not None
