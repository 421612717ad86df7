"""pictures.parquet: the pictures of a suite's rows, one row per picture. Its columns are declared only here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from metabench.core.atomic import write_atomically
from metabench.core.errors import MetabenchError
from metabench.core.pictures import Picture
from metabench.results.schema import PICTURES_COLUMN
from metabench.results.typed import decode

PICTURES_FILE = "pictures.parquet"
_VERSION = b"metabench_pictures"
PICTURES_SCHEMA = pa.schema(
    [
        pa.field("cell", pa.string(), nullable=False, metadata={"description": "hash of the cell's spec"}),
        pa.field("seed", pa.int64(), nullable=False, metadata={"description": "seed of the run"}),
        pa.field(PICTURES_COLUMN.name, PICTURES_COLUMN.type, metadata={"description": PICTURES_COLUMN.description}),
    ],
    metadata={_VERSION: b"1"},
)

Pictures = dict[tuple[str, int], dict[str, Picture]]


def pictures_of(rows: pa.Table) -> pa.Table:
    """Return the pictures of rows from cells' files that have any."""
    chosen = rows.select(PICTURES_SCHEMA.names)
    return chosen.filter(pa.array([bool(value) for value in chosen[PICTURES_COLUMN.name].to_pylist()], pa.bool_()))


def write_pictures(path: Path, parts: Iterable[pa.Table]) -> None:
    """Write tables of `pictures_of` to `path`, completely or not at all; without any picture there is no file."""
    table = pa.concat_tables([part.cast(PICTURES_SCHEMA) for part in (PICTURES_SCHEMA.empty_table(), *parts)])
    if table.num_rows:
        write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
    else:
        path.unlink(missing_ok=True)


def read_pictures(path: Path) -> Pictures:
    """Return the pictures of each cell and seed by name. Raises MetabenchError for a file that is none, or of another version."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise MetabenchError(f"pictures '{path}' cannot be read ({error}): run `metabench collect` again") from error
    if (table.schema.metadata or {}).get(_VERSION) != PICTURES_SCHEMA.metadata[_VERSION]:
        raise MetabenchError(f"pictures '{path}' are of another version: run `metabench collect` again")
    kind = PICTURES_COLUMN.type
    return {(row["cell"], row["seed"]): decode(kind, row[PICTURES_COLUMN.name]) for row in table.to_pylist()}
