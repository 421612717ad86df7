"""Finding methods and problems: each module of a package declares one or more, and no list is kept by hand."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from metabench.core.errors import MetabenchError, unknown

T = TypeVar("T")


class Found(dict[str, T]):
    """What was found, by name, and what was left out, by name and with the reason."""

    def __init__(self, found: Mapping[str, T], left_out: Mapping[str, str]) -> None:
        super().__init__(found)
        self.left_out = dict(left_out)


@dataclass(frozen=True)
class Installed:
    """What another installed package offers under a group of entry points.

    Attributes:
        name: of the entry point.
        value: where it leads, 'package.module' or 'package.module:object'.
        distribution: the package that declares it, with its version.
        content: the module or object; None if it cannot be imported.
        problem: why it cannot be imported; empty if it can.
    """

    name: str
    value: str
    distribution: str
    content: Any
    problem: str

    @property
    def package(self) -> str:
        """The top-level package of the value."""
        return self.value.partition(":")[0].partition(".")[0].strip()


def modules_of(package: str) -> list[ModuleType]:
    """Return the imported modules of `package`, in the order of their names."""
    found = importlib.import_module(package)
    return [importlib.import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(found.__path__)]


@functools.cache
def load_file(path: Path) -> ModuleType:
    """Import a plugin, a Python file outside the package; raise MetabenchError if that fails."""
    if not path.is_file():
        raise MetabenchError(f"plugin '{path}': no such file")
    # Two plugins may have the same file name in different folders.
    name = f"metabench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MetabenchError(f"plugin '{path}': not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise MetabenchError(f"plugin '{path}' cannot be imported: {_said(error)}") from error
    return module


@functools.cache
def installed(group: str) -> tuple[Installed, ...]:
    """Return what other installed packages declare under `group`, by name; looked up once per process.

    One that cannot be imported is included, with the reason.
    """
    if not _mentioned(group):
        return ()
    # Here and not above: importing it adds a sixth to the time of `metabench list`.
    from importlib.metadata import entry_points

    found = []
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"
        try:
            content, problem = point.load(), ""
        # Somebody else's package: whatever it does when it is imported, this one goes on.
        except (Exception, SystemExit) as error:
            content, problem = None, f"cannot be imported: {_said(error)}"
        found.append(Installed(point.name, point.value, owner, content, problem))
    return tuple(found)


def _mentioned(group: str) -> bool:
    """Return whether the metadata of an importable package names `group`, or cannot be read as a file."""
    for place in dict.fromkeys(Path(entry or ".") for entry in sys.path):
        if place.is_file():
            return True
        for pattern in ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt"):
            if any(group in file.read_text(encoding="utf-8", errors="replace") for file in place.glob(pattern)):
                return True
    return False


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return `known[name]`, or raise an error that says why it was left out, or names the nearest valid one."""
    if name in known:
        return known[name]
    if isinstance(known, Found) and name in known.left_out:
        raise MetabenchError(f"{kind} '{name}' was left out: {known.left_out[name]}")
    raise unknown(kind, name, known)


def _said(error: BaseException) -> str:
    """Return an exception's kind and message, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
