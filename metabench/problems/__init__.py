"""Bilevel problems, one per file: subclasses of `metabench.core.Problem`, in this folder, in other installed packages and in Python files.

A problem is named by its card, else after its file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metabench.core.declarations import check_problem
from metabench.core.problem import Problem
from metabench.core.registry import Found, Registry

PROBLEMS: Registry[type[Problem]] = Registry(
    sort="problem",
    kind=Problem,
    package=__name__,
    group="metabench.problems",
    name=lambda problem, stem: str(getattr(getattr(problem, "card", None), "name", "")) or stem,
    check=check_problem,
    hint="derive a class from metabench.core.Problem",
    classes=True,
)


def problems(plugins: Iterable[Path] = ()) -> Found[type[Problem]]:
    """Return all problems by name; raise MetabenchError as `Registry`."""
    return PROBLEMS(plugins)


def problem(name: str, plugins: Iterable[Path] = ()) -> type[Problem]:
    """Return one problem by name; raise MetabenchError naming the nearest valid one, or why it was left out."""
    return PROBLEMS.pick(name, plugins)
