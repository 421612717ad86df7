"""Column types that hold more than one value: maps of options and numbers, lists of curves and pictures. In Python all are dictionaries.

Parquet knows no value that is an int here and a text there. An option is therefore a struct of which one field is filled, the one of its
type; None fills none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from metabench.core.curves import Curve, curve_fault
from metabench.core.errors import MetabenchError
from metabench.core.pictures import Picture, picture_fault

_FLOATS = pa.list_(pa.float64())
_KINDS: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "text": str}

NUMBERS = pa.map_(pa.string(), pa.float64())
"""Floats by name: `dict[str, float]`."""

OPTIONS = pa.map_(
    pa.string(),
    pa.struct([("bool", pa.bool_()), ("int", pa.int64()), ("float", pa.float64()), ("text", pa.string())]),
)
"""Options by name: `dict[str, bool | int | float | str | None]`."""

CURVES = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("along", pa.string()),
            ("unit", pa.string()),
            ("x", _FLOATS),
            ("values", _FLOATS),
            ("lower", _FLOATS),
            ("upper", _FLOATS),
            ("n", pa.int64()),
            ("log_x", pa.bool_()),
            ("log_y", pa.bool_()),
        ]
    )
)
"""Curves by name: `dict[str, Curve]`."""

PICTURES = pa.list_(pa.struct([("name", pa.string()), ("caption", pa.string()), ("png", pa.string())]))
"""Pictures by name: `dict[str, Picture]`."""

WORDS = {
    NUMBERS: "numbers by name",
    OPTIONS: "options by name",
    CURVES: "curves by name",
    PICTURES: "pictures by name",
}
_NUMBERS_OF_A_CURVE = ("x", "values", "lower", "upper")


def encode(kind: pa.DataType, value: Any) -> Any:
    """Return a dictionary as Arrow takes it for a column of type `kind`; any other value as it is."""
    if value is None or kind not in WORDS:
        return value
    if kind == OPTIONS:
        return [(name, _tagged(option)) for name, option in value.items()]
    if kind == CURVES:
        return [
            {field.name: name if field.name == "name" else getattr(curve, field.name) for field in CURVES.value_type}
            for name, curve in ((name, curve.plain()) for name, curve in value.items())
        ]
    if kind == PICTURES:
        return [{"name": name, "caption": picture.caption, "png": picture.png} for name, picture in value.items()]
    return list(value.items())


def decode(kind: pa.DataType, value: Any) -> Any:
    """Return the inverse of `encode` for a value that Arrow gave back."""
    if value is None or kind not in WORDS:
        return value
    if kind == OPTIONS:
        return {name: next((one for one in option.values() if one is not None), None) for name, option in value}
    if kind == CURVES:
        return {one["name"]: _curve(one) for one in value}
    if kind == PICTURES:
        return {one["name"]: Picture(one["png"], one["caption"]) for one in value}
    return dict(value)


def check(kind: pa.DataType, value: Any, what: str) -> None:
    """Raise MetabenchError, naming `what` and the entry, if a value cannot be kept in a column of type `kind`, one of `WORDS`."""
    if not isinstance(value, Mapping):
        raise MetabenchError(f"{what} is {value!r} ({type(value).__name__}), expected {WORDS[kind]}")
    for name, entry in value.items():
        if not isinstance(name, str):
            raise MetabenchError(f"{what} has the name {name!r} ({type(name).__name__}), expected a text")
        if kind in (CURVES, PICTURES):
            if fault := curve_fault(entry) if kind == CURVES else picture_fault(entry):
                raise MetabenchError(f"{what}: '{name}' {fault}")
        elif kind == NUMBERS and (isinstance(entry, bool) or not isinstance(entry, float | int)):
            raise MetabenchError(f"{what}: '{name}' is {entry!r} ({type(entry).__name__}), expected a number")
        elif kind == OPTIONS and not (entry is None or type(entry) in _KINDS.values()):
            raise MetabenchError(
                f"{what}: '{name}' is {entry!r} ({type(entry).__name__}), expected bool, int, float, str or None"
            )


def as_json(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of maps as JSON objects in text; infinite numbers and those that are none are null there, as in every JSON."""
    decoded = (decode(column.type, value) for value in column.to_pylist())
    return pa.array([None if value is None else json.dumps(_finite(value)) for value in decoded], pa.string())


def _tagged(option: Any) -> dict[str, Any]:
    return {name: option for name, kind in _KINDS.items() if type(option) is kind}


def _curve(fields: Mapping[str, Any]) -> Curve:
    numbers = {name: tuple(fields[name]) for name in _NUMBERS_OF_A_CURVE}
    return Curve(**{name: value for name, value in fields.items() if name != "name"} | numbers)


def _finite(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(entry, float) and not math.isfinite(entry) else entry for name, entry in value.items()
    }
