"""times.parquet: what groups of cells took, one line per cell, seed and round. Its columns are declared only here.

In a round every cell of a setting is timed once. Ratios of two cells are therefore taken within rounds: lines of equal group, part, seed
and round. A file of another version is refused.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metabench.core.atomic import write_atomically
from metabench.core.errors import MESSAGE_LENGTH, MetabenchError
from metabench.results.schema import BY_NAME, Column

TIMES_FILE = "times.parquet"
TIMES_VERSION = 1
VERSION_KEY = b"metabench_times"

_STRING, _INT = pa.string(), pa.int64()

TIME_COLUMNS: tuple[Column, ...] = (
    Column("group", _STRING, "experiment and hash of the setting whose cells are timed together", required=True),
    Column(
        "part",
        _INT,
        "number of the part of a group that is too large for the machine's memory; 0 otherwise",
        required=True,
    ),
    BY_NAME["cell"],
    BY_NAME["seed"],
    Column("round", _INT, "number of the round, from 0; empty in a line that says why a cell was not timed"),
    Column("order", _INT, "the cell's place in the round, from 0"),
    Column("core", _INT, "core of all turns of the round; empty where the system chooses: on a GPU, or with several threads"),
    Column("seconds", pa.float64(), "seconds per hypergradient in this turn: the median of its calls"),
    Column("calls", _INT, "calls of the turn"),
    Column("process", _INT, "id of the cell's process"),
    Column("started_at", pa.timestamp("ms", "UTC"), "when the turn began"),
    Column("message", _STRING, "why the cell was not timed, or no further; empty otherwise", required=True),
)

TIMES_SCHEMA = pa.schema(
    [pa.field(c.name, c.type, nullable=not c.required, metadata={"description": c.description}) for c in TIME_COLUMNS],
    metadata={VERSION_KEY: str(TIMES_VERSION).encode()},
)

Line = dict[str, Any]


def write_times(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines, completely or not at all; a column that a line lacks is empty, and the message is cut to what a row takes."""
    cut = [{**line, "message": line.get("message", "")[:MESSAGE_LENGTH]} for line in lines]
    write_time_table(path, pa.Table.from_pylist(cut, schema=TIMES_SCHEMA))


def write_time_table(path: Path, table: pa.Table) -> None:
    """Write a table of lines, completely or not at all."""
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_times(path: Path) -> pa.Table:
    """Return the lines of a group, or of a suite. Raises MetabenchError for a file that is missing, unreadable or of another version."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError as error:
        raise MetabenchError(f"no times '{path}': `metabench time` writes those of a group") from error
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MetabenchError(
            f"times '{path}' cannot be read ({reason}): delete the file and time its cells again"
        ) from error
    if not table.schema.equals(TIMES_SCHEMA, check_metadata=True):
        found = (table.schema.metadata or {}).get(VERSION_KEY, b"none").decode("utf-8", "replace")
        raise MetabenchError(f"times '{path}': version {found}, expected {TIMES_VERSION}: time its cells again")
    return table


def collected(files: Sequence[Path]) -> pa.Table:
    """Return the lines of several groups. Raises MetabenchError as `read_times`."""
    return pa.concat_tables([TIMES_SCHEMA.empty_table(), *map(read_times, files)])


def with_times(rows: pa.Table, times: pa.Table) -> pa.Table:
    """Return the rows with the median and the quartiles of their cells' rounds, and with the messages of those that were not timed.

    Of a cell that stopped in the middle of its rounds, those that it finished count for nothing; so do times of cells without a row.
    """
    if not times.num_rows:
        return rows
    # By cell and seed, the rounds of each part: a baseline is in every part of its group.
    seconds: dict[tuple[str, int], dict[tuple[str, int], list[float]]] = {}
    messages: dict[tuple[str, int], list[str]] = {}
    for line in times.select(["group", "part", "cell", "seed", "seconds", "message"]).to_pylist():
        key, part = (line["cell"], line["seed"]), (line["group"], line["part"])
        if line["message"]:
            messages.setdefault(key, []).append(line["message"])
            seconds.setdefault(key, {})[part] = []
        else:
            seconds.setdefault(key, {}).setdefault(part, []).append(line["seconds"])
    names = ("time_median_s", "time_q1_s", "time_q3_s", "time_repeats", "message")
    columns = {name: rows[name].to_pylist() for name in names}
    for index, key in enumerate(zip(rows["cell"].to_pylist(), rows["seed"].to_pylist(), strict=True)):
        found = [one for part in seconds.get(key, {}).values() for one in part]
        if found:
            lower, median, upper = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
            columns["time_median_s"][index], columns["time_repeats"][index] = median, len(found)
            columns["time_q1_s"][index], columns["time_q3_s"][index] = lower, upper
        told = filter(None, (columns["message"][index], *messages.get(key, ())))
        columns["message"][index] = "; ".join(told)[:MESSAGE_LENGTH]
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))
    return rows
