"""Common refusals of methods, in one place: `Unsupported` becomes a row that says why."""

from __future__ import annotations

from metabench.core.errors import Unsupported
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import Batch, Window


def refuse_update_and_start(problem: Problem, sees: str) -> None:
    """Raise Unsupported if meta-parameters enter the inner update or the start; `sees` says what the method differentiates instead."""
    if problem.roles & {MetaRole.UPDATE, MetaRole.START}:
        raise Unsupported(f"the meta-parameters enter the inner update or the start, and {sees}")


def refuse_update_and_start_alone(problem: Problem, sees: str) -> None:
    """Raise Unsupported if meta-parameters enter the inner update, or one the start alone; `sees` says what the method sees instead.

    A minimum forgets where the run to it started: where meta-parameters are the start and enter a loss too, as in implicit MAML, the
    share of the start is zero. Rajeswaran et al. 2019.
    """
    if MetaRole.UPDATE in problem.roles or problem.roles == {MetaRole.START}:
        raise Unsupported(f"the meta-parameters enter the inner update or the start, and {sees}")
    if problem.start_only:
        names = ", ".join(map(repr, sorted(problem.start_only)))
        raise Unsupported(f"only the start of the inner run reads {names}, and {sees}")


def refuse_start(problem: Problem, sees: str) -> None:
    """Raise Unsupported if the meta-parameters are initial parameters; `sees` says what the method differentiates instead."""
    if MetaRole.START in problem.roles:
        raise Unsupported(f"the meta-parameters are the initial parameters, and {sees}")


def refuse_earlier_outer_losses(window: Window, sees: str) -> Batch:
    """Return the batch of the outer loss due at the window's end.

    Raises Unsupported if others are due before; `sees` says what the method differentiates instead.
    """
    *earlier, last = window.outer
    if any(batch is not None for batch in earlier):
        raise Unsupported(f"outer losses are due before the end of the window, and {sees}")
    assert last is not None  # a window has an outer loss
    return last
