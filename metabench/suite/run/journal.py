"""The rows of a cell as its seeds end, in a file beside its row file: what ends the job costs no seed that was done.

The first line says of what the rows are; each other line is a row. A line that was cut short is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

from metabench.core.curves import Curve
from metabench.core.pictures import Picture
from metabench.measure.environment import torch_version
from metabench.results.version import SCHEMA_VERSION
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash

Row = dict[str, Any]


class Journal:
    """The finished rows of `cell`, whose row file is `out`; those of another spec, source, torch or schema are forgotten."""

    def __init__(self, cell: Cell, out: Path) -> None:
        self._path, self._cell = journal_file(out), cell
        self.rows: dict[int, Row] = {}
        """By seed."""
        with contextlib.suppress(OSError, ValueError):
            head, *lines = self._path.read_text(encoding="utf-8").split("\n")
            if head == self._head:
                # What follows the last line's end was cut short.
                self.rows = {row["seed"]: row for row in map(row_of, lines[:-1])}

    @functools.cached_property
    def _head(self) -> str:
        # Not before it is needed: the hash of the source imports what a process need not import that only forks another.
        cell = self._cell
        return json.dumps({"spec": cell.spec_hash, "code": code_hash(cell), "torch": torch_version(), "schema": SCHEMA_VERSION})

    def add(self, row: Row) -> None:
        """Keep a row, unless the disk refuses: that is said when the row file is written."""
        text = "" if self.rows else f"{self._head}\n"
        text += json.dumps(row, default=dataclasses.asdict) + "\n"
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a" if self.rows else "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        self.rows[row["seed"]] = row

    def forget(self) -> None:
        """Remove the file: the rows are where they belong."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def journal_file(out: Path) -> Path:
    """Return where the finished rows of a row file's cell are kept until all are."""
    return out.with_suffix(".journal")


def row_of(line: str | bytes | dict[str, Any]) -> Row:
    """Return the row that JSON holds, with its curves and pictures; raise ValueError if there is none."""
    row: Row = line if isinstance(line, dict) else json.loads(line)
    for column, kind in (("curves", Curve), ("pictures", Picture)):
        if column in row:
            row[column] = {name: kind(**fields) for name, fields in row[column].items()}
    return row
