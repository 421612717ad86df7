"""Profiles of Snakemake, read as YAML: which executor runs a suite, and what its jobs ask for. Snakemake itself is not imported."""

from __future__ import annotations

import ast
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metabench.core.errors import MetabenchError

_NAMES = ("config.yaml", "profile.yaml")


@dataclass(frozen=True)
class Profile:
    """What one or several profiles say together.

    Attributes:
        files: they were read from, in the order in which they count: later ones replace keys of earlier ones, whole sections included.
        keys: of Snakemake's command line, without the dashes in front.
    """

    files: tuple[Path, ...]
    keys: Mapping[str, Any]

    @property
    def executor(self) -> str:
        """The name of the executor; empty where none is named, and jobs run on this machine."""
        return str(self.keys.get("executor") or "")

    def resources(self, rule: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a job of a rule asks for: the default resources, over them the rule's `own`, over those what is set for the rule."""
        found = self._section("default-resources") | dict(own)
        chosen = self._section("set-resources").get(rule) or {}
        return {name: _value(value) for name, value in (found | chosen).items()}

    def _section(self, name: str) -> dict[str, Any]:
        given = self.keys.get(name) or {}
        if not isinstance(given, dict):
            raise MetabenchError(f"profile '{self.files[-1]}': '{name}' is not a mapping of names to values")
        return given


def read_profile(places: Sequence[Path]) -> Profile:
    """Return what profiles say: files, or folders with a config.yaml. Raises MetabenchError for one that cannot be read."""
    files, keys = [], {}
    for place in places:
        files.append(_file(place))
        keys.update(_read(files[-1]))
    return Profile(tuple(files), keys)


def missing_executor(name: str) -> str:
    """Return why Snakemake has no executor of that name, and how to install it; empty where it has."""
    if name in ("local", "dryrun", "touch"):
        return ""
    package = f"snakemake-executor-plugin-{name}"
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"the executor '{name}' is not installed: pip install {package} (metabench[cluster] has those of the profiles here)"
    return ""


def _file(place: Path) -> Path:
    for start in (place, Path("profiles", place)):
        if start.is_file():
            return start
        for name in _NAMES:
            if (start / name).is_file():
                return start / name
    raise MetabenchError(f"profile '{place}' is neither a file nor a folder with a config.yaml")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MetabenchError(f"profile '{path}' cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MetabenchError(f"profile '{path}' is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise MetabenchError(f"profile '{path}' is not a mapping of options to values")
    return {str(key): value for key, value in found.items() if not str(key).startswith("__")}


def _value(value: Any) -> Any:
    """Return a resource as Snakemake evaluates it: a text in quotation marks without them, and any other as it is."""
    if isinstance(value, str) and value[:1] in ("'", '"'):
        try:
            return ast.literal_eval(value)
        except (SyntaxError, ValueError):
            return value
    return value
