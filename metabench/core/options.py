"""Options: a frozen dataclass next to the method or problem that reads them, validated once, at the edge.

A field declares its default, its bounds or choices and its meaning:

    @dataclass(frozen=True)
    class Options:
        copies: int = option(2, minimum=2, help="perturbed copies of the parameters")
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from metabench.core.errors import MetabenchError, unknown

T = TypeVar("T")

# Kept: looking types up takes longer than all else that is done with options.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def option(
    default: Any,
    *,
    help: str,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: Collection[str] | None = None,
    check: Callable[[Any], object] | None = None,
    needs: Callable[[Any], Iterable[Path]] | None = None,
    picks: Callable[[Any], Iterable[tuple[Any, str]]] | None = None,
    execution: bool = False,
) -> Any:
    """Declare an option: its default, what it means, and its closed (`minimum`, `maximum`) or open (`above`) bounds or `choices`.

    `choices` may be a `Registry`: plugins then add to them.

    `check` raises MetabenchError for a value that it cannot read, as `read_schedule` does.
    `needs` returns the files that a value names: a cell depends on their content.
    `picks` returns the registries that a value chooses from, each with the name that it chooses: a cell depends on their source.
    `execution` marks an option that changes how the arithmetic runs (compiled, captured) but not the result: a certificate, which judges
    the mathematics, leaves it at its default.
    """
    bounds = {"minimum": minimum, "above": above, "maximum": maximum, "choices": choices, "execution": execution or None}
    return dataclasses.field(default=default, metadata={"help": help, "check": check, "needs": needs, "picks": picks, **bounds})


def build(options: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return `options` with `values`; raise MetabenchError naming `where` and the offending key, its type or its bound."""
    fields = {field.name: field for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    hints = _hints(options)
    checked = {}
    for name, value in values.items():
        if name not in fields:
            raise unknown(f"option of {where}", name, fields)
        checked[name] = _checked(value, hints[name], fields[name].metadata, f"option '{name}' of {where}")
    return options(**checked)


def changed(options: Any) -> dict[str, Any]:
    """Return the options that differ from their defaults, in the order of declaration."""
    fields = dataclasses.fields(options)
    return {f.name: getattr(options, f.name) for f in fields if getattr(options, f.name) != f.default}


def options_text(options: Any) -> str:
    """Return the options that differ from their defaults as 'name=value, ...', for people to read.

    A text that could be taken for several options is quoted.
    """
    return ", ".join(f"{name}={_value_text(value)}" for name, value in changed(options).items())


_AMBIGUOUS = re.compile(r'[,="\n]')


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _AMBIGUOUS.search(text) else text


def describe(options: type) -> list[dict[str, Any]]:
    """Return name, type, default, bounds and meaning of every option, for listings."""
    hints = _hints(options)
    rows = []
    for field in dataclasses.fields(options):
        bounds = {k: v for k, v in field.metadata.items() if k not in ("help", "check", "needs", "picks") and v is not None}
        if "choices" in bounds:
            bounds["choices"] = tuple(bounds["choices"])
        rows.append(
            {
                "name": field.name,
                "type": _type_name(hints[field.name]),
                "default": field.default,
                "help": field.metadata.get("help", ""),
                **bounds,
            }
        )
    return rows


def _checked(value: Any, hint: Any, bounds: Mapping[str, Any], what: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(kind for kind in hint.__args__ if kind is not type(None))
    # YAML writes 1e-3 as a string and 1 for 1.0: numbers are taken for what they plainly are, a bool never for a number.
    if hint is float and not isinstance(value, bool):
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise MetabenchError(f"{what}: expected a number, got {value!r}") from None
        if not math.isfinite(value):
            raise MetabenchError(f"{what}: expected a finite number, got {value!r}")
    elif isinstance(value, bool) != (hint is bool) or not isinstance(value, hint):
        raise MetabenchError(f"{what}: expected {_type_name(hint)}, got {value!r}")
    if (choices := bounds.get("choices")) is not None and value not in choices:
        raise unknown(f"value of {what}", str(value), choices)
    if (minimum := bounds.get("minimum")) is not None and not value >= minimum:
        raise MetabenchError(f"{what}: must be at least {minimum}, got {value!r}")
    if (above := bounds.get("above")) is not None and not value > above:
        raise MetabenchError(f"{what}: must be above {above}, got {value!r}")
    if (maximum := bounds.get("maximum")) is not None and not value <= maximum:
        raise MetabenchError(f"{what}: must be at most {maximum}, got {value!r}")
    if (check := bounds.get("check")) is not None:
        try:
            check(value)
        except MetabenchError as error:
            raise MetabenchError(f"{what}: {error}") from None
    return value


def _type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
