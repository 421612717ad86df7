"""Hypergradient methods, one per file: functions declared with `metabench.core.method`, in this folder, in other installed packages and in
Python files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metabench.core.declarations import check_method
from metabench.core.method import Method
from metabench.core.registry import Found, Registry

METHODS: Registry[Method] = Registry(
    sort="method",
    kind=Method,
    package=__name__,
    group="metabench.methods",
    name=lambda method, stem: method.name,
    check=check_method,
    hint="decorate a function with metabench.core.method",
)


def methods(plugins: Iterable[Path] = ()) -> Found[Method]:
    """Return all methods by name, in the order of tables; raise MetabenchError as `Registry`."""
    return METHODS(plugins)


def method(name: str, plugins: Iterable[Path] = ()) -> Method:
    """Return one method by name; raise MetabenchError naming the nearest valid one, or why it was left out."""
    return METHODS.pick(name, plugins)
