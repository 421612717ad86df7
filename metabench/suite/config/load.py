"""From a YAML file or Snakemake's configuration to a checked `Suite`.

Every mistake names its key, what was expected and the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metabench.core.errors import MetabenchError, unknown
from metabench.suite.config.keys import Experiment, Suite

_SUITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9_-]+")
_OVERRIDE = re.compile(r"[A-Za-z_][^=\s]*=")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?)?B", re.ASCII)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
_NOUNS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "value"}


Source: TypeAlias = Mapping[str, Any] | Path | str | Sequence[Path | str]


def load_suite(source: Source, overrides: Sequence[str] = ()) -> Suite:
    """Return the suite of a YAML file (a path), of several (of a key in two the later counts), or of parsed values (a mapping).

    `overrides`, 'key=value' or 'section.key=value' with a YAML value, are applied last.

    Raises:
        MetabenchError: the file cannot be read or is not a YAML mapping; a key is unknown or missing; a value has the wrong type or
            is out of bounds.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return load_suite(source[0] if len(source) == 1 else _together(source), overrides)
    where = "configuration" if isinstance(source, Mapping) else str(source)
    values = _with_overrides(_read(source, where), overrides, where)
    plain = OmegaConf.to_container(values)
    _check_keys(plain, Suite, "", where)
    _check_published(plain, "", where)
    try:
        config = OmegaConf.merge(OmegaConf.structured(Suite), values)
        for missing in sorted(OmegaConf.missing_keys(config)):
            raise MetabenchError(f"{where}: key '{missing}' is missing: {_declaration(missing)[0].metadata['help']}")
        suite = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise _explained(error, values, where) from error
    assert isinstance(suite, Suite)
    if not _SUITE_NAME.fullmatch(suite.name):
        raise MetabenchError(
            f"{where}: key 'name': '{suite.name}' is to name a folder: expected letters, digits, '.', '_' and '-', a letter or digit first"
        )
    _check_bounds(suite, "", where)
    memory_bytes(suite.limits.memory, f"{where}: key 'limits.memory'")
    if suite.device_memory:
        memory_bytes(suite.device_memory, f"{where}: key 'device_memory'")
        if not suite.predict:
            raise MetabenchError(
                f"{where}: key 'device_memory': it has no effect while 'predict' is false: "
                "set 'predict: true', or leave it empty"
            )
    return suite


def to_yaml(suite: Suite) -> str:
    """Return every key of `suite`, defaults included, as YAML that `load_suite` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(suite))


def options_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the options of 'option=value' texts, each with a YAML value; raise MetabenchError for anything else."""
    values = OmegaConf.to_container(_with_overrides(OmegaConf.create({}), overrides, "an option"))
    assert isinstance(values, dict)
    return values


def memory_bytes(text: str, where: str = "memory") -> int:
    """Return the bytes that '512MiB', '4 GB' or '1.5GiB' says; raise MetabenchError naming `where` for anything else."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise MetabenchError(f"{where}: expected a number of bytes with its unit, as '512MiB' or '4GiB', got '{text}'")
    unit = match[2] or ""
    size = int(float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS.get(unit[:1], 0))
    if size == 0:
        raise MetabenchError(f"{where}: must be above 0, got '{text}'")
    return size


def _read(source: Mapping[str, Any] | Path | str, where: str) -> Any:
    try:
        values = OmegaConf.create(dict(source)) if isinstance(source, Mapping) else OmegaConf.load(source)
    except FileNotFoundError:
        raise MetabenchError(f"configuration '{where}': no such file") from None
    except UnicodeDecodeError as error:
        raise MetabenchError(f"configuration '{where}' is not UTF-8 text: {error}") from error
    except OSError as error:
        raise MetabenchError(
            f"configuration '{where}' cannot be read: {error.strerror or 'not a YAML mapping'}"
        ) from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise MetabenchError(f"configuration '{where}' is not valid YAML: {_one_line(error)}") from error
    if not OmegaConf.is_dict(values):
        raise MetabenchError(f"configuration '{where}': expected a mapping of keys to values, as 'name: my_suite'")
    return values


def _together(files: Sequence[Path | str]) -> dict[str, Any]:
    try:
        return dict(OmegaConf.merge(*(_read(path, str(path)) for path in files)))
    except OmegaConfBaseException as error:
        raise MetabenchError(
            f"the configurations {' and '.join(map(str, files))} do not fit together: {_one_line(error)}"
        ) from error


def _with_overrides(values: Any, overrides: Sequence[str], where: str) -> Any:
    for text in overrides:
        if not _OVERRIDE.match(text):
            raise MetabenchError(f"override '{text}': expected 'key=value', as 'limits.seconds=60'")
        try:
            values = OmegaConf.merge(values, OmegaConf.from_dotlist([text]))
        except (yaml.YAMLError, OmegaConfBaseException, TypeError) as error:
            raise MetabenchError(f"override '{text}' does not fit {where}: {_one_line(error)}") from error
    return values


def _check_keys(values: Any, section: type, path: str, where: str) -> None:
    """Raise for the first key that `section` lacks and for anything else in a section's place; recurse into sections."""
    hints = typing.get_type_hints(section)
    if not isinstance(values, dict):
        raise MetabenchError(
            f"{where}: key '{path}': expected a mapping with keys among {', '.join(hints)}; got {values!r}"
        )
    for name, value in values.items():
        if name not in hints:
            raise MetabenchError(f"{where}: {unknown(f'key of {path}' if path else 'key', str(name), hints)}")
        below = f"{path}.{name}" if path else name
        if dataclasses.is_dataclass(hints[name]):
            _check_keys(value, hints[name], below, where)
        elif hints[name] == dict[str, Experiment]:
            if not isinstance(value, dict):
                raise MetabenchError(
                    f"{where}: key '{below}': expected a mapping from names to experiments (none: {{}}), got {value!r}"
                )
            for entry, inner in value.items():
                if not isinstance(entry, str) or not _EXPERIMENT_NAME.fullmatch(entry):
                    raise MetabenchError(
                        f"{where}: key '{below}': {entry!r} is not a name: expected letters, digits, '_' and '-'"
                    )
                _check_keys(inner, Experiment, f"{below}.{entry}", where)


def _check_published(values: Any, path: str, where: str) -> None:
    """Raise for the first value that reads the environment: the resolved suite is part of the results."""
    if isinstance(values, str) and "${" in values and "oc.env" in values:
        raise MetabenchError(
            f"{where}: key '{path}': '{values}' reads an environment variable, and the suite is published with its results: write the value"
        )
    if isinstance(values, dict):
        for name, value in values.items():
            _check_published(value, f"{path}.{name}" if path else str(name), where)
    elif isinstance(values, list):
        for place, value in enumerate(values):
            _check_published(value, f"{path}[{place}]", where)


def _check_bounds(section: Any, prefix: str, where: str) -> None:
    for entry in dataclasses.fields(section):
        value, path = getattr(section, entry.name), f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value):
            _check_bounds(value, f"{path}.", where)
        elif entry.name == "experiments":
            for name, experiment in value.items():
                _check_bounds(experiment, f"{path}.{name}.", where)
        elif value is not None:
            if entry.name == "seeds" and (not value or len(set(value)) < len(value)):
                raise MetabenchError(f"{where}: key '{path}': expected at least one seed and none twice, got {value}")
            for element in value if isinstance(value, list) else [value]:
                _check_bound(element, entry.metadata, f"{where}: key '{path}'")


def _check_bound(value: Any, bounds: Mapping[str, Any], what: str) -> None:
    if (minimum := bounds["minimum"]) is not None and value < minimum:
        raise MetabenchError(f"{what}: must be at least {minimum}, got {value}")
    if (above := bounds["above"]) is not None and not above < value < math.inf:
        raise MetabenchError(f"{what}: must be above {above} and finite, got {value}")
    if (maximum := bounds["maximum"]) is not None and value > maximum:
        raise MetabenchError(f"{what}: must be at most {maximum}, got {value}")
    if (choices := bounds["choices"]) is not None and value not in choices:
        raise MetabenchError(f"{what}: {unknown('value', value, choices)}")


def _declaration(path: str) -> tuple[dataclasses.Field[Any], Any]:
    """Return the declaration of a key and its type by its path, as 'limits.seconds' or 'experiments.NAME.seeds[1]'."""
    names = re.sub(r"\[.*?\]", "", path).split(".")
    section: Any = Suite
    if names[0] == "experiments" and len(names) > 2:
        section, names = Experiment, names[2:]
    while len(names) > 1 and dataclasses.is_dataclass(inner := typing.get_type_hints(section)[names[0]]):
        section, names = inner, names[1:]
    return section.__dataclass_fields__[names[0]], typing.get_type_hints(section)[names[0]]


def _explained(error: OmegaConfBaseException, values: Any, where: str) -> MetabenchError:
    """Return omegaconf's error in metabench's wording: the key, the type expected and the value."""
    path = error.full_key
    if not path or "Interpolation" in type(error).__name__:
        return MetabenchError(f"{where}: {f'key {path!r}: ' if path else ''}{_one_line(error)}")
    _, hint = _declaration(path)
    value = OmegaConf.select(values, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return MetabenchError(
            f"{where}: key '{path}': {unknown('value', str(value), [choice.value for choice in hint])}"
        )
    return MetabenchError(f"{where}: key '{path}': expected {_expected(hint)}, got {value!r}")


def _expected(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return f"{_expected(hint.__args__[0])}, or null"
    if typing.get_origin(hint) is list:
        return f"a list of {_NOUNS[typing.get_args(hint)[0]]}s"
    if typing.get_origin(hint) is dict:
        return "a mapping"
    return _NOUNS[hint] if hint in (bool, str) else f"a {_NOUNS[hint]}"


def _one_line(error: Exception) -> str:
    """Return an error of yaml or omegaconf on one line: the problem and its place."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem and mark:
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    return str(error).partition("\n")[0]
