"""Meta-training in a few lines, for what is trained within an evaluation or a search, and has no rows of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from metabench.autodiff.outer import OuterUpdate
from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Hypergradient, InnerState, Problem, Tree, Window, tree
from metabench.core.errors import Diverged

Answer = Callable[[Problem, InnerState, Tree, Window], Hypergradient]
"""From a problem, an inner state, meta-parameters and a window to a hypergradient: a method with its options."""


def meta_trained(problem: Problem, outer_steps: int, answer: Answer = through_graph) -> Tree:
    """Return the meta-parameters after some outer steps, whose windows all begin runs of their own.

    Raises:
        Diverged: a hypergradient is not finite.
    """
    update, meta = OuterUpdate(problem.outer_optimiser), problem.initial()
    state = update.init(meta)
    for step, tasks in enumerate(itertools.islice(problem.windows(), outer_steps), 1):
        found = tree.mean([answer(*problem.entered(window, None), meta, window).meta for window in tasks])
        if not tree.all_finite(found):
            raise Diverged(f"the hypergradient is not finite after {step} of {outer_steps} meta-updates")
        meta, state = update.update(found, meta, state)
    return meta
