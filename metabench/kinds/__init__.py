"""Kinds of experiment, one per file. `kinds()` finds every `Kind` that a module of this folder declares."""

from __future__ import annotations

from metabench.core.kind import Kind
from metabench.core.registry import modules_of, pick


def kinds() -> dict[str, Kind]:
    """Return all kinds by name, in their order."""
    found = {kind.name: kind for module in modules_of(__name__) for kind in vars(module).values() if isinstance(kind, Kind)}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def kind(name: str) -> Kind:
    """Return one kind by name; raise MetabenchError naming the nearest valid one."""
    return pick("kind of experiment", name, kinds())
