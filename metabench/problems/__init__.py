"""Bilevel problems, one per file. `problems()` finds every `Problem` class in this folder, named after its file."""

from __future__ import annotations

from metabench.core.problem import Problem
from metabench.core.registry import modules_of, pick


def problems() -> dict[str, type[Problem]]:
    """Return all problems by name."""
    return {
        module.__name__.rpartition(".")[2]: found
        for module in modules_of(__name__)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Problem) and found.__module__ == module.__name__
    }


def problem(name: str) -> type[Problem]:
    """Return one problem by name; raise MetabenchError naming the nearest valid one."""
    return pick("problem", name, problems())
