"""The user's own arrays as a data set: read from NumPy and Parquet files, in splits that share no example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metabench.core.errors import MetabenchError
from metabench.data.own import Examples, own_data, read_arrays
from metabench.data.registry import check_dataset
from metabench.data.splits import check_disjoint


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ten examples, in a .npz file and the same in a .parquet file."""
    arrays = {"inputs": np.arange(10.0), "targets": np.arange(10) % 2}
    np.savez(tmp_path / "mine.npz", **arrays)
    pd.DataFrame(arrays).to_parquet(tmp_path / "mine.parquet")
    return tmp_path / "mine.npz"


def loaded(path: Path, splits: dict[str, Any]) -> Examples:
    found = own_data(path, splits).decode(lambda name: b"")
    assert isinstance(found, Examples)
    return found


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_sizes_are_drawn_once_and_for_all(table: Path, suffix: str) -> None:
    path = table.with_suffix(suffix)
    one, same = (loaded(path, {"train": 6, "test": 3}) for _ in range(2))
    assert {name: values.shape for name, values in one["train"].items()} == {"inputs": (6,), "targets": (6,)}
    np.testing.assert_array_equal(one["train"]["inputs"], same["train"]["inputs"])
    assert not set(one["train"]["inputs"]) & set(one["test"]["inputs"])
    np.testing.assert_array_equal(one["test"]["inputs"] % 2, one["test"]["targets"])
    assert own_data(path, {"train": 6, "test": 3}).card.sizes == {"train": 6, "test": 3}


def test_a_size_of_numpy_is_a_size_and_not_an_index(table: Path) -> None:
    assert len(loaded(table, {"train": np.int64(6)})["train"]["inputs"]) == 6


def test_indices_are_taken_as_they_are(table: Path) -> None:
    found = loaded(table, {"train": [0, 1, 2], "test": np.array([9, 7])})
    assert found["test"]["inputs"].tolist() == [9.0, 7.0]
    assert own_data(table, {"train": [0, 1, 2], "test": [9, 7]}).card.sizes == {"train": 3, "test": 2}
    with pytest.raises(MetabenchError, match="unknown split 'trian': did you mean 'train'"):
        found["trian"]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (
            {"train": [0, 1, 2, 3], "test": [2, 3, 4]},
            "splits 'train' and 'test' overlap: 2 examples in both, the first of them 2",
        ),
        ({"train": [0, 1], "test": [4, 1]}, "overlap: 1 example in both, the first of them 1"),
        (
            {"train": [0.5], "test": [1]},
            "split 'train': expected a list of integers, indices, found float64 of shape (1,)",
        ),
        ({"train": [[0, 1], [2, 3]]}, "expected a list of integers, indices, found int64 of shape (2, 2)"),
        ({"train": [-1], "test": [1]}, "split 'train' has the index -1: a negative index"),
        ({"train": 4, "test": [1]}, "not sizes of ['train'] and indices of ['test']"),
    ],
)
def test_splits_that_cannot_be_are_refused_where_they_are_declared(
    table: Path, splits: dict[str, Any], words: str
) -> None:
    with pytest.raises(MetabenchError) as refused:
        own_data(table, splits)
    assert words in str(refused.value)
    assert str(table) in str(refused.value)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": 8, "test": 3}, "a split asks for train 8 + test 3 = 11 examples, but there are 10"),
        ({"train": [3], "test": [10]}, "split 'test' has the index 10: there are 10 examples, numbered from 0"),
    ],
)
def test_more_examples_than_there_are_are_refused_where_they_are_loaded(
    table: Path, splits: dict[str, Any], words: str
) -> None:
    with pytest.raises(MetabenchError, match=f"data file '{table}': ") as refused:
        loaded(table, splits)
    assert words in str(refused.value)


def test_arrays_of_two_lengths_are_refused() -> None:
    with pytest.raises(MetabenchError, match=r"need one length, found \{'inputs': 3, 'targets': 2\}"):
        Examples({"inputs": np.zeros(3), "targets": np.zeros(2)}, {"train": np.array([0])})


def test_an_array_that_is_one_number_is_no_examples(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", scale=0.5, inputs=np.zeros(3))
    with pytest.raises(
        MetabenchError, match=r"mine\.npz': arrays of examples need one length, found \{'scale': 0, 'inputs': 3\}"
    ):
        loaded(tmp_path / "mine.npz", {"train": 2})


def test_a_file_that_is_missing_damaged_or_of_another_kind_is_named(table: Path) -> None:
    with pytest.raises(MetabenchError, match=r"mina\.npz' does not exist: did you mean '.*mine\.npz'\?"):
        read_arrays(table.with_name("mina.npz"))
    with pytest.raises(MetabenchError, match=r"data set 'mina': data file '.*mina\.npz' does not exist"):
        check_dataset(own_data(table.with_name("mina.npz"), {"train": 1}), "mina")
    for name in ("damaged.npz", "damaged.parquet"):
        table.with_name(name).write_bytes(b"PK damaged")
        with pytest.raises(MetabenchError, match=rf"{name}' cannot be read: "):
            read_arrays(table.with_name(name))
    table.with_name("empty.npz").write_bytes(b"")
    with table.with_name("array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    for name in ("empty.npz", "array.npz"):
        with pytest.raises(MetabenchError, match=rf"{name}' cannot be read: it is no archive of arrays"):
            read_arrays(table.with_name(name))
    table.with_name("mine.csv").write_text("1,2")
    with pytest.raises(MetabenchError, match=r"mine\.csv': expected \.npz \(NumPy\) or \.parquet"):
        read_arrays(table.with_name("mine.csv"))


def test_disjoint_splits_pass() -> None:
    check_disjoint({"train": np.array([0, 2]), "test": np.array([1, 3])}, 4)
