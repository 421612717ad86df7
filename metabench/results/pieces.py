"""Rows of many cells' files in one, kept so that collecting a suite again reads only the files that changed.

A piece is named by a hash of what its files were: names, sizes, times. What cannot be read is read from the cells' files again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from metabench.core.atomic import write_atomically
from metabench.core.errors import MetabenchError
from metabench.results.version import SCHEMA_VERSION

PIECE = 100
"""Files of a piece: few enough to read them all again where one changed, and enough to make few pieces of thousands."""

_VERSION = 1


class Pieces:
    """The pieces in a folder; none are kept where that is None."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def of(self, files: Sequence[Path], read: Callable[[Sequence[Path]], pa.Table | None]) -> Iterator[pa.Table]:
        """Yield a table of the rows of each piece of `files`, in their order.

        `read` returns the rows of some files, or None where that failed: such a piece is not kept.
        """
        for start in range(0, len(files), PIECE):
            part = files[start : start + PIECE]
            place = self._place(part)
            table = place and _read(place)
            if table is None:
                table = read(part)
                if table is not None and place:
                    # A disk that refuses costs time, no rows.
                    with contextlib.suppress(MetabenchError):
                        _write(place, table)
            if table is not None:
                yield table

    def forget_others(self) -> None:
        """Remove the pieces that were not used."""
        if self._folder and self._folder.is_dir():
            for path in self._folder.glob("*.arrow"):
                if path.name not in self._used:
                    path.unlink(missing_ok=True)

    def _place(self, files: Sequence[Path]) -> Path | None:
        if self._folder is None:
            return None
        try:
            stats = [(str(path), one.st_size, one.st_mtime_ns, one.st_ino) for path in files for one in [path.stat()]]
        except OSError:
            return None
        digest = hashlib.sha256(json.dumps([_VERSION, SCHEMA_VERSION, stats]).encode()).hexdigest()[:16]
        self._used.add(f"{digest}.arrow")
        return self._folder / f"{digest}.arrow"


def _read(place: Path) -> pa.Table | None:
    with contextlib.suppress(OSError, pa.ArrowException), pa.OSFile(str(place)) as file, pa.ipc.open_file(file) as reader:
        return reader.read_all()
    return None


def _write(place: Path, table: pa.Table) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.BufferOutputStream() as stream:
        with pa.ipc.new_file(stream, table.schema, options=options) as writer:
            writer.write_table(table)
        content = stream.getvalue()
    write_atomically(place, lambda file: file.write(content))
