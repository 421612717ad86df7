"""Common refusals of methods, in one place: `Unsupported` becomes a row that says why."""

from __future__ import annotations

from metabench.core.errors import Unsupported
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import Window


def refuse_update_and_start(problem: Problem, sees: str) -> None:
    """Raise Unsupported if meta-parameters enter the inner update or the start; `sees` says what the method differentiates instead."""
    if problem.roles & {MetaRole.UPDATE, MetaRole.START}:
        raise Unsupported(f"the meta-parameters enter the inner update or the start, and {sees}")


def refuse_start(problem: Problem, sees: str) -> None:
    """Raise Unsupported if the meta-parameters are initial parameters; `sees` says what the method differentiates instead."""
    if MetaRole.START in problem.roles:
        raise Unsupported(f"the meta-parameters are the initial parameters, and {sees}")


def refuse_earlier_outer_losses(window: Window, sees: str) -> None:
    """Raise Unsupported if outer losses are due before the window's end; `sees` says what the method differentiates instead."""
    if any(batch is not None for batch in window.outer[:-1]):
        raise Unsupported(f"outer losses are due before the end of the window, and {sees}")
