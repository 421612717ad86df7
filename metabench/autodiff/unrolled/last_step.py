"""The last inner step of a window, the state before it constant: what one-step methods share."""

from __future__ import annotations

from typing import NamedTuple

from metabench.autodiff.gradients import OuterGradient, inner_gradient, outer_gradient
from metabench.autodiff.inner import begun, run, updated
from metabench.autodiff.unrolled.sweep import pull_update
from metabench.core.problem import Problem
from metabench.core.types import Batch, InnerState, Tree, Window


class LastStep(NamedTuple):
    """The step from w_{K-1} to w_K, and the outer loss due there.

    Attributes:
        before: the state before the step.
        gradient: df/dw that the step reads.
        after: the state after it.
        due: the outer loss at w_K and its two gradients.
    """

    before: InnerState
    gradient: Tree
    after: InnerState
    due: OuterGradient

    def pull_update(self, problem: Problem, meta: Tree) -> tuple[Tree, Tree]:
        """Return (dU/dl)^T dF/dw and the cotangent (dU/dg)^T dF/dw of the inner gradient g; U is the update."""
        cotangent = InnerState(self.due.params, {})
        _, share, of_gradient = pull_update(problem, self.gradient, self.before, meta, cotangent, through=False)
        return share, of_gradient


def before_last(problem: Problem, state: InnerState, meta: Tree, window: Window, steps: int = 1) -> InnerState:
    """Return the state before the last `steps` of the window's inner steps. First order."""
    return run(problem, begun(problem, state, meta), meta, window.inner[: len(window.inner) - steps])


def last_step(problem: Problem, state: InnerState, meta: Tree, window: Window, outer: Batch) -> LastStep:
    """Return the window's last step, run from `state` by all steps before it, with the outer loss on `outer`. First order."""
    before = before_last(problem, state, meta, window)
    gradient = inner_gradient(problem, before.params, meta, window.inner[-1])
    after = updated(problem, gradient, before, meta)
    return LastStep(before, gradient, after, outer_gradient(problem, after.params, meta, outer))
