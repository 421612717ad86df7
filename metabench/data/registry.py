"""The data sets that exist, found in the modules of `metabench.data.sets`; no array is loaded to list them."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from metabench.core.errors import MetabenchError, unknown
from metabench.core.registry import modules_of
from metabench.data.contract import Data, Dataset, DatasetCard
from metabench.data.fetch.files import path_of, read_verified
from metabench.data.sets.own_text import is_own_text, own_text


@functools.cache
def _declared() -> dict[str, Dataset]:
    found: dict[str, Dataset] = {}
    for module in modules_of("metabench.data.sets"):
        for dataset in getattr(module, "DATASETS", ()):
            if dataset.card.name in found:
                raise ValueError(f"data set '{dataset.card.name}' is declared twice, again in {module.__name__}")
            found[dataset.card.name] = dataset
    return dict(sorted(found.items()))


def datasets() -> dict[str, DatasetCard]:
    """Return every card by name, in alphabetical order, without the user's own texts ("text:PATH")."""
    return {name: dataset.card for name, dataset in _declared().items()}


def dataset(name: str) -> Dataset:
    """Return a declared data set, or a user's own text by "text:PATH".

    Raises MetabenchError, with the nearest name, if there is none of this name; for a user's own text as `own_text`.
    """
    if is_own_text(name):
        return own_text(name)
    if name not in _declared():
        raise unknown("dataset", name, _declared())
    return _declared()[name]


def card(name: str) -> DatasetCard:
    """Return the card of a data set; raises MetabenchError as `dataset` does."""
    return dataset(name).card


def load(name: str, root: Path | None = None) -> Data:
    """Return the arrays of a data set, every file checked against its sha256; None for a problem without data.

    `root` is the folder of fetched data, by default `files.data_root()`. Raises MetabenchError if the name is unknown,
    if the set has not been fetched (naming the command that does), or if a file is damaged.
    """
    chosen = dataset(name)
    return chosen.decode(functools.partial(read_verified, chosen.card, root=root))


def is_available(name: str, root: Path | None = None) -> bool:
    """Tell whether `load` would find the data: files there with the declared size, or the library installed.

    A user's own text is available if it can be read and is long enough. Raises MetabenchError for an unknown name.
    """
    if is_own_text(name):
        try:
            own_text(name)
        except MetabenchError:
            return False
        return True
    declared = card(name)
    if declared.embedded or declared.fetched:
        paths = [(path_of(declared, file, root), file.size) for file in declared.files]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)
    return not declared.library or importlib.util.find_spec(declared.library) is not None
