"""Meta-training in a few lines, for what is trained within an evaluation or a search, and has no rows of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from metabench.autodiff.outer import OuterUpdate
from metabench.core import Batch, Hypergradient, InnerState, Problem, Tree, Window, tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch

Answer = Callable[[Problem, InnerState, Tree, Window], Hypergradient]
"""From a problem, an inner state, meta-parameters and a window to a hypergradient: a method with its options."""


def meta_trained(problem: Problem, outer_steps: int, answer: Answer | None = None, *, exact: bool = True) -> Tree:
    """Return the meta-parameters after some outer steps, whose windows all begin runs of their own.

    Args:
        problem: of tasks that are alike in shape.
        outer_steps: how many.
        answer: the method; None: as `side_by_side`, which is faster than one task after another.
        exact: as `side_by_side`.

    Raises:
        Diverged: a hypergradient is not finite.
    """
    update, meta = OuterUpdate(problem.outer_optimiser), problem.initial()
    state = update.init(meta)
    for step, tasks in enumerate(itertools.islice(problem.windows(), outer_steps), 1):
        if answer is None:
            found = side_by_side(problem, meta, tasks, exact=exact)
        else:
            found = tree.mean([answer(*problem.entered(window, None), meta, window).meta for window in tasks])
        if not tree.all_finite(found):
            raise Diverged(f"the hypergradient is not finite after {step} of {outer_steps} meta-updates")
        meta, state = update.update(found, meta, state)
    return meta


def side_by_side(problem: Problem, meta: Tree, windows: Sequence[Window], *, exact: bool = True) -> Tree:
    """Return the mean hypergradient of windows that begin runs, which are a dimension of tensors.

    Args:
        problem: whose inner loss reads no meta-parameter, and whose optimiser has none, unless the hypergradient is exact.
        meta: the meta-parameters.
        windows: which begin with the same parameters, have an outer loss at their end, and whose batches are alike in names and shapes.
        exact: whether second derivatives count; otherwise inner gradients are constants (Finn et al. 2017, section 5.2).
    """
    begins = windows[0].begins
    assert begins is not None
    inner = [_stacked([window.inner[k] for window in windows]) for k in range(len(windows[0].inner))]
    outer = _stacked([window.outer[-1] or {} for window in windows])

    def ended(meta: Tree, inner: Sequence[Batch]) -> Tree:
        params = problem.start(begins, meta)
        state = problem.optimiser.init(params)
        for batch in inner:
            gradient = torch.func.grad(problem.inner_loss)(params, meta, batch)
            params, state = problem.optimiser.update(gradient, params, state, meta)
        return params

    every = torch.func.vmap(ended, in_dims=(None, 0))
    loss = torch.func.vmap(problem.outer_loss, in_dims=(0, None, 0))
    with torch.no_grad():
        away = None if exact else tree.subtract(every(meta, inner), problem.start(begins, meta))

    def mean(meta: Tree) -> torch.Tensor:
        last = every(meta, inner) if away is None else tree.add(problem.start(begins, meta), away)
        return loss(last, meta, outer).mean()

    found: Tree = torch.func.grad(mean)(meta)
    return found


def _stacked(batches: Sequence[Batch]) -> Batch:
    return tree.tree_map(lambda *leaves: torch.stack(leaves), *batches)
