"""Hypergradient methods, one a file. `methods()` finds every function declared with `metabench.core.method` in this folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.core.method import Method
from metabench.core.registry import load_file, modules_of, pick

ORDER = ("none", "unrolled", "unrolled_remat", "mixflow", "truncated", "t1t2", "ift_cg", "ift_neumann", "evograd")
"""How tables are sorted: exact methods first; what is not named here follows by name."""


def methods(plugins: Iterable[Path] = ()) -> dict[str, Method]:
    """Return all methods by name, those of `plugins` (Python files) included.

    Raises:
        MetabenchError: a plugin cannot be imported, declares no method, or takes a name that is in use.
    """
    found = {m.name: m for module in modules_of(__name__) for m in vars(module).values() if isinstance(m, Method)}
    for path in plugins:
        module = load_file(path.resolve())
        # A method that a plugin imports, to build on it, is not one that it declares.
        declared = [m for m in vars(module).values() if isinstance(m, Method) and m.module == module.__name__]
        if not declared:
            raise MetabenchError(f"plugin '{path}' declares no method: decorate a function with metabench.core.method")
        for m in declared:
            if m.name in found:
                raise MetabenchError(f"plugin '{path}' declares '{m.name}', a name that {found[m.name].module} has")
            found[m.name] = m
    rank = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def method(name: str, plugins: Iterable[Path] = ()) -> Method:
    """Return one method by name; raise MetabenchError naming the nearest valid one."""
    return pick("method", name, methods(plugins))
