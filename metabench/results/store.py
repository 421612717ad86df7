"""Rows on disk: one small Parquet file per cell, and results.parquet with all of them, their curves and pictures next to it.

In Python a row is a dictionary by column, options and named numbers in it are dictionaries, and so are curves: `rows_of`.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from metabench.core.atomic import write_atomically
from metabench.core.errors import MetabenchError, unknown
from metabench.results.curves import CURVES_FILE, points_of, write_curves
from metabench.results.metadata import Metadata, decode_metadata, encode_metadata
from metabench.results.pictures import PICTURES_FILE, pictures_of, write_pictures
from metabench.results.pieces import Pieces
from metabench.results.schema import (
    BY_NAME,
    CELL_COLUMNS,
    COLUMNS,
    CURVES_COLUMN,
    PICTURES_COLUMN,
    SCHEMA,
    SCHEMA_VERSION,
    STATUSES,
)
from metabench.results.times import TIMES_FILE, collected, with_times, write_time_table
from metabench.results.typed import WORDS, as_json, check, decode, encode

VERSION_KEY = b"metabench_schema"

# A cell has a handful of rows: the descriptions would be most of its file, so they stand in results.parquet only.
_CELL_SCHEMA = pa.schema(
    [pa.field(c.name, c.type, nullable=not c.required) for c in CELL_COLUMNS], metadata=SCHEMA.metadata
)
_WORDY = tuple(name for name in SCHEMA.names if BY_NAME[name].type in WORDS)
_TEXT = "json:"
"""What precedes the name of a column in that of its JSON, which the CSV has."""
_LISTED = 10  # files that an error names
_ACCEPTED = {pa.string(): (str,), pa.int64(): (int,), pa.float64(): (float, int), pa.bool_(): (bool,)}


class CorruptRows(MetabenchError):
    """A row file that is truncated, not Parquet, or lacks columns of its own schema version."""


class OtherSchema(MetabenchError):
    """A row file of another schema version, `found`."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(
            f"'{path}' has rows of schema version {found}, and this metabench reads version {SCHEMA_VERSION}: make them again "
            "(`snakemake --cores all` runs every cell of a suite whose rows have another version), or read it with the metabench that "
            "wrote it"
        )
        self.found = found


@dataclass(frozen=True)
class CollectReport:
    """What `collect` did: files read, rows written, rows of each status, and where they are."""

    files: int
    rows: int
    statuses: dict[str, int] = field(default_factory=dict)
    parquet: Path = Path()
    csv: Path = Path()
    curves: Path = Path()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of one cell, completely or not at all.

    Raises MetabenchError naming the column for an unknown or missing one, a value of the wrong type or a curve with a fault, and for
    what the disk refuses.
    """
    for index, row in enumerate(rows):
        check_row(row, f"row {index} of '{path}'")
    values = [{column.name: encode(column.type, row.get(column.name)) for column in CELL_COLUMNS} for row in rows]
    try:
        table = pa.Table.from_pylist(values, schema=_CELL_SCHEMA)
    except (pa.ArrowException, OverflowError) as error:
        raise MetabenchError(f"rows of '{path}' cannot be kept: {_first_line(error)}") from error
    # Dictionaries and statistics cost more than they save in a file of a few rows; reading 20,000 of them is faster without.
    _write_table(Path(path), table, use_dictionary=False, write_statistics=False)


def read_rows(path: Path) -> pa.Table:
    """Return the rows of a cell's file, or of results.parquet, which has no curves or pictures; `rows_of` makes dictionaries of the table.

    Raises OtherSchema for another schema version, CorruptRows for a file that cannot be read, MetabenchError for a missing one.
    """
    path = Path(path)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
        _require_version(path, table.schema.metadata or {})
    except FileNotFoundError as error:
        raise MetabenchError(f"no row file '{path}': run its cell first") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError | IsADirectoryError):
            raise MetabenchError(f"cannot read '{path}': {error.strerror}") from error
        raise CorruptRows(f"row file '{path}' is corrupt or truncated: {_first_line(error)}") from error
    if table.schema not in (_CELL_SCHEMA, SCHEMA):
        raise CorruptRows(f"row file '{path}' says schema {SCHEMA_VERSION} but {_difference(table.schema)}")
    return table


def read_columns(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of a file's rows, quickly: of plain values. Raises CorruptRows for a file that cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            rows: list[dict[str, Any]] = file.read(columns=list(columns), use_threads=False).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorruptRows(f"row file '{path}' is corrupt or truncated: {_first_line(error)}") from error
    return rows


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table from `read_rows`, or of some of its columns, as dictionaries of plain Python values.

    Options are `{'detach': True, 'learning_rate': 0.5, 'optimiser': 'adam', 'steps': 8}`, curves `dict[str, Curve]`. A pandas frame of
    the same is `pandas.DataFrame(rows_of(table))`.
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    for column in (BY_NAME[name] for name in table.schema.names if BY_NAME[name].type in WORDS):
        for row in rows:
            row[column.name] = decode(column.type, row[column.name])
    return rows


def read_metadata(path: Path) -> Metadata:
    """Return the metadata of results.parquet. Raises as `read_rows`."""
    return decode_metadata(read_rows(path).schema.metadata)


def quarantine(path: Path) -> Path:
    """Move a corrupt row file to NAME.corrupt-XXXXXXXX in its folder (eight digits of its content's hash); return the new path."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        aside = path.with_name(f"{path.name}.corrupt-{digest}")
        path.replace(aside)
    except OSError as error:
        raise MetabenchError(f"cannot set corrupt row file '{path}' aside: {error.strerror or error}") from error
    return aside


def collect(
    row_files: Sequence[Path],
    out: Path,
    metadata: Mapping[str, str] | None = None,
    rerun: str = "snakemake --cores all",
    own: Callable[[], Collection[Path]] = tuple,
    times: Sequence[Path] = (),
    kept: Path | None = None,
) -> CollectReport:
    """Concatenate cells' files, in their order, to `out` (Parquet), and their curves and pictures to files in its folder.

    `times` are files of cells that were timed side by side: medians and quartiles go to the rows, every turn to times.parquet. In the
    folder `kept` the rows are kept in pieces: the next time only files that changed are read.

    A CSV is written next to rows and curves, with maps as JSON; each file completely or not at all. No files give empty, valid tables. A
    corrupt file stays where it is and is refused, unless it is one that `own` returns, the files of the suite's cells: those are set aside
    before MetabenchError lists them with the command that reruns their cells (`rerun` and the files). Files of another schema version are
    listed with that command too and stay; a cell with two rows of one seed is refused.
    """
    paths = [Path(path) for path in row_files]
    errors: dict[Path, MetabenchError] = {}
    parts: list[pa.Table] = []
    points: list[pa.Table] = []
    pictures: list[pa.Table] = []
    pieces = Pieces(kept)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        # Joined in pieces: thousands of one-row tables take a hundred times the memory of their rows.
        for rows in pieces.of(paths, lambda files: _joined(files, pool, errors)):
            points.append(points_of(rows))
            pictures.append(pictures_of(rows))
            parts.append(rows.drop_columns([CURVES_COLUMN.name, PICTURES_COLUMN.name]))
    if errors:
        _refuse(errors, rerun, {_place(path) for path in own()})
    pieces.forget_others()
    table = pa.concat_tables(parts).combine_chunks() if parts else _with_texts(SCHEMA.empty_table())
    turns = collected(times)
    texts = {name: table[_TEXT + name] for name in _WORDY}
    table = with_times(table.select(SCHEMA.names).cast(SCHEMA), turns)
    return write_collected(table, out, metadata, len(paths), points, pictures, turns, texts)


def write_collected(
    table: pa.Table,
    out: Path,
    metadata: Mapping[str, str] | None,
    files: int,
    points: Sequence[pa.Table],
    pictures: Sequence[pa.Table],
    turns: pa.Table,
    texts: Mapping[str, pa.Array | pa.ChunkedArray] | None = None,
) -> CollectReport:
    """Write rows, curves, pictures and times as `collect` does; `texts` are the columns of maps as JSON, where they are known already.

    Raises MetabenchError for a cell with two rows of one seed, and for what the disk refuses.
    """
    table = table.cast(SCHEMA).replace_schema_metadata({**SCHEMA.metadata, **encode_metadata(metadata or {})})
    _refuse_duplicates(table)
    out = Path(out)
    csv, curves = out.with_suffix(".csv"), out.with_name(CURVES_FILE)
    write_curves(curves, points)
    write_pictures(out.with_name(PICTURES_FILE), pictures)
    write_time_table(out.with_name(TIMES_FILE), turns)
    _write_table(out, table)
    for name in _WORDY:
        table = table.set_column(table.schema.get_field_index(name), name, texts[name] if texts else as_json(table[name]))
    write_atomically(csv, lambda file: pyarrow.csv.write_csv(table, file))
    return CollectReport(files, table.num_rows, dict(Counter(table["status"].to_pylist())), out, csv, curves)


def _joined(files: Sequence[Path], pool: ThreadPoolExecutor, errors: dict[Path, MetabenchError]) -> pa.Table | None:
    """Return the rows of cells' files, and their maps as JSON; None where a file cannot be read, which is added to `errors`."""
    read = list(pool.map(_read_or_error, files))
    found = {path: entry for path, entry in zip(files, read, strict=True) if isinstance(entry, MetabenchError)}
    errors |= found
    if found:
        return None
    return _with_texts(pa.concat_tables([entry.replace_schema_metadata(None) for entry in read]).combine_chunks())


def _with_texts(rows: pa.Table) -> pa.Table:
    for name in _WORDY:
        rows = rows.append_column(_TEXT + name, as_json(rows[name].cast(BY_NAME[name].type)))
    return rows


def _read_or_error(path: Path) -> pa.Table | MetabenchError:
    try:
        table = read_rows(path)
        if CURVES_COLUMN.name not in table.schema.names:
            raise MetabenchError(f"'{path}' is a table that was collected, not the rows of a cell")
        return table
    except MetabenchError as error:
        return error


def _place(path: Path) -> Path:
    """Return the absolute path; a link stays one."""
    return path.parent.resolve() / path.name


def _refuse(errors: Mapping[Path, MetabenchError], rerun: str, own: Collection[Path]) -> None:
    """Set corrupt files among `own` aside, then raise one error that names them all, or those of other versions, or the other errors."""
    corrupt = [path for path, error in errors.items() if isinstance(error, CorruptRows) and _place(path) in own]
    if corrupt:
        lines = [f"  {path} -> {quarantine(path).name}" for path in corrupt]
        command = f"{rerun} {' '.join(shlex.quote(str(path)) for path in corrupt)}"
        noun = "1 corrupt row file was" if len(corrupt) == 1 else f"{len(corrupt)} corrupt row files were"
        raise MetabenchError(
            f"{noun} set aside; nothing else was touched:\n"
            + "\n".join(lines)
            + f"\nrun these cells again with:\n  {command}"
        )
    other = {path: error.found for path, error in errors.items() if isinstance(error, OtherSchema)}
    if other:
        lines = [f"  {path} (version {found})" for path, found in list(other.items())[:_LISTED]]
        lines += [f"  ... and {len(other) - _LISTED} more"] if len(other) > _LISTED else []
        noun = "1 row file has" if len(other) == 1 else f"{len(other)} row files have"
        raise MetabenchError(
            f"{noun} another schema version than {SCHEMA_VERSION}, which this metabench reads:\n"
            + "\n".join(lines)
            + f"\nmake their rows again with:\n  {rerun}"
        )
    if errors:
        shown = [str(error) for error in list(errors.values())[:_LISTED]]
        if len(errors) > len(shown):
            shown.append(f"... and {len(errors) - len(shown)} more")
        raise MetabenchError("\n".join(shown))


def _refuse_duplicates(table: pa.Table) -> None:
    cells, seeds = table["cell"].to_pylist(), table["seed"].to_pylist()
    ordered = sorted(zip(cells, seeds, strict=True))
    twice = next((one for one, other in pairwise(ordered) if one == other), None)
    if twice is not None:
        raise MetabenchError(
            f"cell '{twice[0]}' has two rows for seed {twice[1]}: the same cell was given in two files"
        )


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Raise MetabenchError, naming `where` and the column, if a row lacks a value, or has one that its column does not take."""
    for name in row:
        if name not in BY_NAME:
            raise MetabenchError(f"{where}: {unknown('column', name, BY_NAME)}")
    for column in CELL_COLUMNS:
        value = row.get(column.name)
        if value is None:
            if column.required:
                raise MetabenchError(
                    f"{where}: column '{column.name}' is required ({column.description}) and is missing"
                )
            continue
        if column.type in WORDS:
            check(column.type, value, f"{where}: column '{column.name}'")
            continue
        accepted = _ACCEPTED[column.type]
        if not isinstance(value, accepted) or (isinstance(value, bool) and column.type != pa.bool_()):
            raise MetabenchError(
                f"{where}: column '{column.name}' is {value!r} ({type(value).__name__}), expected {column.type}"
            )
    if row["status"] not in STATUSES:
        raise MetabenchError(f"{where}: {unknown('status', str(row['status']), STATUSES)}")


def _require_version(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    found = metadata.get(VERSION_KEY)
    if found is None:
        raise CorruptRows(f"'{path}' is Parquet but no row file of metabench: it names no schema version")
    if found != str(SCHEMA_VERSION).encode():
        raise OtherSchema(path, found.decode("utf-8", "replace"))


def _difference(schema: pa.Schema) -> str:
    """Say the first way in which `schema` differs from that of the rows."""
    for column in COLUMNS:
        if column.name not in schema.names:
            return f"lacks column '{column.name}'"
        found = schema.field(column.name)
        if found.type != column.type:
            return f"column '{column.name}' is {found.type}, expected {column.type}"
    extra = [name for name in schema.names if name not in BY_NAME]
    return (
        f"has an unknown column '{extra[0]}'"
        if extra
        else "its columns are in another order or may be empty where they must not"
    )


def _write_table(path: Path, table: pa.Table, **options: Any) -> None:
    def write(file: BinaryIO) -> None:
        pq.write_table(table, file, compression="zstd", **options)

    write_atomically(path, write)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
