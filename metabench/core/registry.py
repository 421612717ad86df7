"""Finding methods and problems: each module of a package declares one or more, and nothing lists them by hand."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from metabench.core.errors import MetabenchError, unknown

T = TypeVar("T")


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
    except Exception as error:
        del sys.modules[name]
        raise MetabenchError(f"plugin '{path}' cannot be imported: {type(error).__name__}: {error}") from error
    return module


def pick(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return `known[name]`, or raise the error that names the nearest valid one."""
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]
