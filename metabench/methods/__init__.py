"""Hypergradient methods, one per file. `methods()` finds every function declared with `metabench.core.method`: in this folder, in other
installed packages that name it under the entry points of GROUP, and in Python files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from metabench.core.checks import check_declaration
from metabench.core.errors import MetabenchError
from metabench.core.method import Method
from metabench.core.registry import Found, Installed, installed, load_file, modules_of, pick

GROUP = "metabench.methods"
"""Entry points under which an installed package offers methods: the name is the method's, the value a module or a method."""

ORDER = (
    "none",
    "unrolled",
    "unrolled_remat",
    "mixflow",
    "forward",
    "truncated",
    "t1t2",
    "darts",
    "sama",
    "first_order",
    "reptile",
    "ift_cg",
    "ift_neumann",
    "ift_nystrom",
    "ift_fixed_point",
    "f2sa",
    "bome",
    "evograd",
    "es",
    "pes",
    "higher_unrolled",
    "torchopt_unrolled",
    "torchopt_ift_cg",
)
"""The order in tables: exact methods first, peers last; methods not named here follow by name."""


def methods(plugins: Iterable[Path] = ()) -> Found[Method]:
    """Return all methods by name: the package's, those of other installed packages, and those of `plugins` (Python files).

    A method of an installed package that cannot be used is left out: a line on standard error says so once, and `pick` says why
    on request. A plugin that cannot be used is an error, because it was requested.

    Raises:
        MetabenchError: a plugin cannot be imported, declares no method, declares one wrongly, or takes a name that is in use.
    """
    own = {m.name: m for module in modules_of(__name__) for m in vars(module).values() if isinstance(m, Method)}
    offered, left_out = _offered(frozenset(own))
    found = own | offered
    for path in plugins:
        module = load_file(path.resolve())
        # A method that a plugin imports, to build on it, is not one that it declares.
        declared = _declared(module, module.__name__)
        if not declared:
            raise MetabenchError(f"plugin '{path}' declares no method: decorate a function with metabench.core.method")
        for m in declared:
            if m.name in found:
                raise MetabenchError(f"plugin '{path}' declares '{m.name}', a name that {found[m.name].module} has")
            try:
                check_declaration(m)
            except MetabenchError as error:
                raise MetabenchError(f"plugin '{path}': {error}") from error
            found[m.name] = m
    rank = {name: place for place, name in enumerate(ORDER)}
    ordered = sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0]))
    return Found(dict(ordered), {name: reason for name, reason in left_out.items() if name not in found})


def method(name: str, plugins: Iterable[Path] = ()) -> Method:
    """Return one method by name; raise MetabenchError naming the nearest valid one, or why it was left out."""
    return pick("method", name, methods(plugins))


@functools.cache
def _offered(taken: frozenset[str]) -> tuple[dict[str, Method], Mapping[str, str]]:
    """Return the methods of installed packages, and by name why others were left out. Warns on standard error, once."""
    found: dict[str, Method] = {}
    left_out: dict[str, str] = {}
    for point in installed(GROUP):
        try:
            for m in _methods_of(point):
                if found.get(m.name) is m:
                    continue
                if m.name in taken or m.name in found:
                    where = f"{GROUP}.{m.name}" if m.name in taken else found[m.name].module
                    raise MetabenchError(f"declares '{m.name}', a name that {where} has")
                found[m.name] = m
        except MetabenchError as error:
            reason = f"entry point '{point.name} = {point.value}' of {point.distribution} {error}"
            left_out[point.name] = reason
            print(f"warning: a method is left out: {reason}", file=sys.stderr)
    return found, left_out


def _methods_of(point: Installed) -> list[Method]:
    """Return the methods that an entry point leads to; raise MetabenchError, a clause that follows its name, if none can be used."""
    if point.problem:
        raise MetabenchError(point.problem)
    if isinstance(point.content, Method):
        offered = [point.content]
    elif isinstance(point.content, ModuleType):
        offered = _declared(point.content, point.package)
    else:
        kind = type(point.content).__name__
        raise MetabenchError(f"is a {kind}, not a module or a function decorated with metabench.core.method")
    if not offered:
        raise MetabenchError("declares no method: decorate a function with metabench.core.method")
    for m in offered:
        check_declaration(m)
        # Rows carry a hash of the source that made them.
        source = getattr(sys.modules.get(m.module), "__file__", None)
        if source is None or Path(source).suffix != ".py":
            raise MetabenchError(f"declares '{m.name}' in a module without a source file, '{m.module}'")
    return offered


def _declared(module: ModuleType, package: str) -> list[Method]:
    """Return the methods in a module that were declared in `package` or below it, each once, under any name."""
    declared = {
        id(m): m
        for m in vars(module).values()
        if isinstance(m, Method) and (m.module == package or m.module.startswith(f"{package}."))
    }
    return list(declared.values())
