"""Collecting again reads only what changed, and gives what reading everything gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metabench.core.errors import MetabenchError
from metabench.results import store
from metabench.results.pieces import PIECE
from metabench.results.store import collect, write_rows
from tests.results.test_store import make_row

FILES = 2 * PIECE + 7


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The row files of many cells, some with curves."""
    paths = [tmp_path / "cells" / f"{index}.parquet" for index in range(FILES)]
    for index, path in enumerate(paths):
        write_rows(path, [make_row(cell=f"{index:08d}", quality=float(index))])
    return paths


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The row files that are read."""
    found: list[Path] = []
    read = store.read_rows
    monkeypatch.setattr(store, "read_rows", lambda path: found.append(path) or read(path))
    return found


def everything(folder: Path) -> dict[str, Any]:
    """Return the content of all that was collected."""
    tables = {path.name: pq.read_table(path) for path in folder.glob("*.parquet")}
    return tables | {path.name: path.read_text() for path in folder.glob("*.csv")}


def collected(files: Sequence[Path], folder: Path, kept: Path | None) -> dict[str, Any]:
    collect(files, folder / "results.parquet", kept=kept)
    return everything(folder)


def test_only_the_piece_of_a_changed_file_is_read_again(files: list[Path], opened: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "collected"
    first = collected(files, tmp_path / "a", kept)
    assert len(opened) == FILES and len(list(kept.iterdir())) == 3
    opened.clear()
    assert collected(files, tmp_path / "b", kept) == first and not opened
    write_rows(files[PIECE + 1], [make_row(cell=f"{PIECE + 1:08d}", quality=-1.0)])
    again = collected(files, tmp_path / "c", kept)
    assert sorted(opened) == sorted(files[PIECE : 2 * PIECE])
    assert again != first and again == collected(files, tmp_path / "d", None)
    assert again["results.parquet"]["quality"].to_pylist()[PIECE + 1] == -1.0
    assert len(list(kept.iterdir())) == 3, "what is not used any more is removed"


def test_a_piece_that_is_damaged_or_cannot_be_kept_is_read_from_the_cells(files: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "collected"
    first = collected(files, tmp_path / "a", kept)
    for index, piece in enumerate(sorted(kept.iterdir())):
        piece.write_bytes(piece.read_bytes()[:-100] if index else b"")
    assert collected(files, tmp_path / "b", kept) == first
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder")
    assert collected(files, tmp_path / "c", nowhere) == first


def test_a_corrupt_file_is_found_whatever_was_kept(files: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "collected"
    collected(files, tmp_path / "a", kept)
    files[3].write_bytes(files[3].read_bytes()[:-9])
    with pytest.raises(MetabenchError, match="1 corrupt row file was set aside"):
        collect(files, tmp_path / "b" / "results.parquet", kept=kept, own=lambda: files)
    with pytest.raises(MetabenchError, match="no row file"):
        collect(files, tmp_path / "b" / "results.parquet", kept=kept)
