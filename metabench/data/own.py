"""The user's own arrays as a data set: a NumPy (.npz) or Parquet file, and how its examples are split."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError, missing_file, unknown
from metabench.data.contract import Dataset, DatasetCard, Read
from metabench.data.splits import Indices, check_disjoint, disjoint

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Examples:
    """Examples of any kind, in disjoint splits: `examples["train"]` is the arrays of that split, by name.

    Attributes:
        arrays: by name, of shape [n, ...], one entry per example.
        splits: by name, the indices of their examples.

    Raises:
        MetabenchError: the arrays differ in length; a split names an example that is not there; two splits share one.
    """

    arrays: Mapping[str, Array]
    splits: Mapping[str, Indices]

    def __post_init__(self) -> None:
        lengths = {name: len(array) if array.ndim else 0 for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise MetabenchError(f"arrays of examples need one length, found {lengths or 'no array'}")
        check_disjoint(self.splits, next(iter(lengths.values())))

    def __getitem__(self, split: str) -> dict[str, Array]:
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        return {name: array[self.splits[split]] for name, array in self.arrays.items()}


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a .npz file, or the columns of a .parquet file, by name.

    Raises:
        MetabenchError: there is no such file, it is of another kind, or it is damaged.
    """
    if not path.is_file():
        raise missing_file("data file", path)
    try:
        if path.suffix == ".npz":
            if not zipfile.is_zipfile(path):
                raise ValueError("it is no archive of arrays")
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".parquet":
            # Here: it takes longer to import than the rest of `metabench list`.
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path)
            return {name: table[name].to_numpy() for name in table.column_names}
    except Exception as error:  # of a damaged file: whatever its parser comes upon
        raise MetabenchError(f"data file '{path}' cannot be read: {error}") from error
    raise MetabenchError(f"data file '{path}': expected .npz (NumPy) or .parquet")


def own_data(
    path: Path,
    splits: Mapping[str, int | Sequence[int] | Indices],
    *,
    name: str = "",
    title: str = "",
    licence: str = "",
    source: str = "",
    citation: str = "",
    task: str = "examples",
) -> Dataset:
    """Return a data set, loaded as `Examples`, of the arrays in a .npz or .parquet file; its name is the file's by default.

    splits: by name, how many examples are drawn at random, the same on every machine, or the indices of its examples.

    Raises:
        MetabenchError: two splits share an example, or some give indices and some numbers. A missing file is reported where the data
            set is declared, one that is too short where it is loaded.
    """
    counts = {split: int(size) for split, size in splits.items() if isinstance(size, int | np.integer)}
    indices = {split: np.asarray(size) for split, size in splits.items() if split not in counts}
    if counts and indices:
        raise MetabenchError(
            f"data file '{path}': give the sizes of all splits, or the indices of all, not sizes of {list(counts)} and indices of "
            f"{list(indices)}"
        )
    try:
        check_disjoint(indices)
    except MetabenchError as error:
        raise MetabenchError(f"data file '{path}': {error}") from error
    card = DatasetCard(
        name=name or path.stem,
        title=title or f"Own data {path.name}",
        task=task,
        licence=licence,
        source=source or path.name,
        citation=citation,
        sizes=counts or {split: len(chosen) for split, chosen in indices.items()},
    )
    return Dataset(card, functools.partial(_decode, path, counts, indices), files=(path,))


def _decode(path: Path, counts: Mapping[str, int], indices: Mapping[str, Indices], read: Read) -> Examples:
    del read  # neither embedded nor fetched
    arrays = read_arrays(path)
    n = next((len(array) for array in arrays.values() if array.ndim), 0)
    try:
        return Examples(arrays, indices or disjoint(n, counts, seed=0))
    except MetabenchError as error:
        raise MetabenchError(f"data file '{path}': {error}") from error
