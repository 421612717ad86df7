"""Kinds of experiment, one per file: values of `Kind`, in this folder, in other installed packages and in Python files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metabench.core.declarations import check_kind
from metabench.core.kind import Kind
from metabench.core.registry import Found, Registry

KINDS: Registry[Kind] = Registry(
    sort="kind of experiment",
    kind=Kind,
    package=__name__,
    group="metabench.kinds",
    name=lambda kind, stem: kind.name,
    check=check_kind,
    hint="name a metabench.core.Kind",
)


def kinds(plugins: Iterable[Path] = ()) -> Found[Kind]:
    """Return all kinds by name; raise MetabenchError as `Registry`."""
    return KINDS(plugins)


def kind(name: str, plugins: Iterable[Path] = ()) -> Kind:
    """Return one kind by name; raise MetabenchError naming the nearest valid one, or why it was left out."""
    return KINDS.pick(name, plugins)
