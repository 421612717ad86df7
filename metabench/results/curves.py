"""curves.parquet: the curves of a suite's rows in long form, one row per point. Its columns are declared only here.

What a row says of its cell is repeated for every point, as dictionary-encoded texts: a million points take about 100 MB in memory, and
on disk little more than the numbers. A file of another version is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from metabench.core.atomic import write_atomically
from metabench.core.curves import Curve, after_step, name_and_step
from metabench.core.errors import MetabenchError
from metabench.results.schema import BY_NAME, CURVES_COLUMN, Column

CURVES_FILE = "curves.parquet"
CURVES_VERSION = 2
VERSION_KEY = b"metabench_curves"

_ROW = (
    "suite",
    "experiment",
    "kind",
    "cell",
    "problem",
    "dataset",
    "size",
    "problem_variant",
    "method",
    "label",
    "seed",
)
_STRING, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()

CURVE_COLUMNS: tuple[Column, ...] = (
    *(BY_NAME[name] for name in _ROW),
    Column("name", _STRING, "name of the curve", required=True),
    Column("outer_step", _INT, "outer step after which the whole curve was seen, where a suite asks for several; empty: the last"),
    Column("along", _STRING, "what x is, with its unit", required=True),
    Column("unit", _STRING, "unit of the values; empty where there is none", required=True),
    Column("x", _FLOAT, "where the value is", required=True),
    Column("value", _FLOAT, "the value; over several tasks the median", required=True),
    Column("lower", _FLOAT, "lower quartile over tasks; empty for a single run"),
    Column("upper", _FLOAT, "upper quartile over tasks; empty for a single run"),
    Column("n", _INT, "number of tasks", required=True),
    Column("log_x", _BOOL, "whether x asks for a logarithmic axis", required=True),
    Column("log_y", _BOOL, "whether the values ask for a logarithmic axis", required=True),
)

_DICTIONARY = pa.dictionary(pa.int32(), _STRING)
_METADATA = {VERSION_KEY: str(CURVES_VERSION).encode()}

CURVES_SCHEMA = pa.schema(
    [
        pa.field(
            c.name,
            _DICTIONARY if c.type == _STRING else c.type,
            nullable=not c.required,
            metadata={"description": c.description},
        )
        for c in CURVE_COLUMNS
    ],
    metadata=_METADATA,
)
_CSV_SCHEMA = pa.schema([pa.field(c.name, c.type) for c in CURVE_COLUMNS])
_CSV_BATCH = 1 << 16

Curves = dict[tuple[str, int], dict[str, Curve]]


def points_of(rows: pa.Table) -> pa.Table:
    """Return the points of the curves of rows from cells' files, in the order of the rows. Raises MetabenchError for unequal lengths."""
    column = rows[CURVES_COLUMN.name].combine_chunks()
    curves = pc.list_flatten(column)
    lists = {name: pc.struct_field(curves, name) for name in ("x", "values", "lower", "upper")}
    lengths = {name: pc.list_value_length(lists[name]).to_numpy(zero_copy_only=False) for name in lists}
    counts = lengths["x"]
    quartiles = (lengths["lower"] == lengths["upper"]) & ((lengths["lower"] == counts) | (lengths["lower"] == 0))
    if not (quartiles & (lengths["values"] == counts)).all():
        raise MetabenchError("a curve has more values than x, or fewer")
    owner = np.repeat(np.arange(len(counts)), counts)
    of_row = rows.select(_ROW).take(pc.list_parent_indices(column))
    of_curve = {name: of_row[name] for name in _ROW} | {
        name: pc.struct_field(curves, name) for name in ("along", "unit", "n", "log_x", "log_y")
    }
    names, steps = zip(*map(name_and_step, pc.struct_field(curves, "name").to_pylist()), strict=True) if len(curves) else ((), ())
    of_curve |= {"name": pa.array(names, _STRING), "outer_step": pa.array(steps, _INT)}
    points: dict[str, Any] = {
        "x": pc.list_flatten(lists["x"]),
        "value": pc.list_flatten(lists["values"]),
        "lower": _filled(lists["lower"], counts),
        "upper": _filled(lists["upper"], counts),
    }
    for field in CURVES_SCHEMA:
        if field.name not in points:
            values = of_curve[field.name]
            points[field.name] = (pc.dictionary_encode(values) if field.type == _DICTIONARY else values).take(owner)
    return pa.table({field.name: points[field.name] for field in CURVES_SCHEMA}, schema=CURVES_SCHEMA)


def _filled(quartiles: pa.Array, counts: np.ndarray[Any, Any]) -> pa.Array:
    """Return a number for every point, null for those of curves without quartiles."""
    there = np.repeat(pc.list_value_length(quartiles).to_numpy(zero_copy_only=False) > 0, counts)
    filled = np.zeros(len(there))
    filled[there] = pc.list_flatten(quartiles).to_numpy()
    return pa.array(filled, mask=~there)


def write_curves(path: Path, parts: Sequence[pa.Table]) -> None:
    """Write tables of `points_of` to `path` and as CSV next to it, each completely or not at all; none give an empty, valid file."""
    table = pa.concat_tables(parts) if parts else CURVES_SCHEMA.empty_table()
    table = table.unify_dictionaries()

    def parquet(file: BinaryIO) -> None:
        pq.write_table(table, file, compression="zstd")

    def csv(file: BinaryIO) -> None:
        with pyarrow.csv.CSVWriter(file, _CSV_SCHEMA) as writer:
            for batch in table.to_batches(max_chunksize=_CSV_BATCH):
                writer.write_table(pa.Table.from_batches([batch]).cast(_CSV_SCHEMA))

    write_atomically(path, parquet)
    write_atomically(path.with_suffix(".csv"), csv)


def read_points(path: Path) -> pa.Table:
    """Return the points of curves.parquet. Raises MetabenchError for a file that is none, or of another version."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError as error:
        raise MetabenchError(f"no curves '{path}': `metabench collect` writes them") from error
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MetabenchError(f"curves '{path}' cannot be read ({reason}): run `metabench collect` again") from error
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"none").decode("utf-8", "replace")
    if version != str(CURVES_VERSION):
        raise MetabenchError(
            f"curves '{path}': version {version}, expected {CURVES_VERSION}: run `metabench collect` again"
        )
    if not table.schema.equals(CURVES_SCHEMA):
        raise MetabenchError(
            f"curves '{path}': the columns are not those of version {version}: run `metabench collect` again"
        )
    return table


def read_curves(path: Path) -> Curves:
    """Return the curves of each cell and seed by name. Raises as `read_points`."""
    return _by_seed(read_points(path).unify_dictionaries().combine_chunks())


def _by_seed(table: pa.Table) -> Curves:
    if not table.num_rows:
        return {}
    codes = [table[name].chunk(0).indices.to_numpy() for name in ("cell", "name")] + [table["seed"].to_numpy()]
    codes.append(pc.fill_null(table["outer_step"], -1).to_numpy())
    starts = np.flatnonzero(np.any([np.diff(code, prepend=code[0] - 1) != 0 for code in codes], axis=0))
    numbers = {name: table[name].to_numpy() for name in ("x", "value", "lower", "upper")}
    heads = table.select(["cell", "seed", "name", "outer_step", "along", "unit", "n", "log_x", "log_y"]).take(starts).to_pylist()
    found: Curves = {}
    for head, start, end in zip(heads, starts, [*starts[1:], table.num_rows], strict=True):
        none = np.isnan(numbers["lower"][start])
        x, values, lower, upper = (
            () if none and name in ("lower", "upper") else tuple(numbers[name][start:end].tolist()) for name in numbers
        )
        name = head["name"] if head["outer_step"] is None else after_step(head["name"], head["outer_step"])
        found.setdefault((head["cell"], head["seed"]), {})[name] = Curve(
            x,
            values,
            head["unit"],
            head["along"],
            lower,
            upper,
            head["n"],
            head["log_x"],
            head["log_y"],
        )
    return found
