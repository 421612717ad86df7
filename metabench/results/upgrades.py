"""Rows of older schema versions, read as rows of the current one.

An upgrade adds the columns that the older version lacked, empty: nothing is computed, renamed or dropped. Versions that need more than
that are not upgraded, and their files are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from metabench.results.schema import SCHEMA, SCHEMA_VERSION


@dataclass(frozen=True)
class Upgrade:
    """From one version to the next: the columns that the next one added. None of them may be required."""

    to: int
    added: tuple[str, ...]


UPGRADES: Mapping[int, Upgrade] = {
    2: Upgrade(to=3, added=("predicted_bytes", "floor_bytes", "flops")),
    3: Upgrade(
        to=4,
        added=("yardstick_error", "yardstick_precision", "kernels", "instruction_set", "prediction_note"),
    ),
}
"""By the version of the file. Version 1 had no `method_hash`, which cannot be empty."""


def can_read(version: str) -> bool:
    """Tell whether rows of this version are, or become, rows of `SCHEMA_VERSION`."""
    return version == str(SCHEMA_VERSION) or (version.isdigit() and _added_since(int(version)) is not None)


def missing_columns(version: str) -> tuple[str, ...]:
    """Return the columns that rows of `version`, one that can be read, do not have yet."""
    return (_added_since(int(version)) or ()) if version != str(SCHEMA_VERSION) else ()


def upgraded(table: pa.Table, version: str) -> pa.Table | None:
    """Return a table of `version`, one that can be read, with the columns that were added since, empty, each in its place.

    None if the table lacks the columns of its version.
    """
    added = missing_columns(version)
    if table.schema.names != [name for name in SCHEMA.names if name not in added]:
        return None
    metadata = {**(table.schema.metadata or {}), b"metabench_schema": str(SCHEMA_VERSION).encode()}
    for name in added:
        field = pa.field(name, SCHEMA.field(name).type)
        place = [column for column in SCHEMA.names if column in {*table.schema.names, name}].index(name)
        table = table.add_column(place, field, pa.nulls(table.num_rows, field.type))
    return table.replace_schema_metadata(metadata)


def _added_since(version: int) -> tuple[str, ...] | None:
    """Return what the upgrades from `version` to this one add; None where they do not lead here."""
    added: tuple[str, ...] = ()
    while version != SCHEMA_VERSION:
        if version not in UPGRADES:
            return None
        added += UPGRADES[version].added
        version = UPGRADES[version].to
    return added
