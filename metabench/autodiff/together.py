"""Plain inner training of several particles: the same window under meta-parameters of their own, in vectorised passes of torch.func."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

from metabench.autodiff.gradients import gradients
from metabench.autodiff.inner import leaves_of, trained, with_leaves
from metabench.autodiff.traced.missing_derivatives import refusal, refused_by_vmap
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Batch, InnerState, Tree, Window

Loss: TypeAlias = "Callable[[Tree, Tree, Batch], torch.Tensor]"

STACKED_BYTES = 2**22
"""Most bytes of the stacked inner states of a pass whose size is not said: beyond it, passes take memory and save little time."""

HELP = "pairs in one vectorised pass (torch.func), if torch.func.vmap takes the losses and the update; 0: as many as have states of 4 MiB"


def pairs_together(asked: int, pairs: int, state: InnerState) -> int:
    """Return how many pairs of particles a pass takes, at most `pairs`; asked: 0 for as many as `STACKED_BYTES` allow."""
    size = sum(leaf.numel() * leaf.element_size() for leaves in leaves_of(state) for leaf in leaves.values())
    return min(pairs, asked or max(1, STACKED_BYTES // max(1, 2 * size)))


def train_particles(
    problem: Problem,
    start: Callable[[int], InnerState],
    metas: Sequence[Tree],
    window: Window,
    together: bool,
    keep: Callable[[int, InnerState], None],
) -> tuple[list[float], bool]:
    """Return the outer objectives of the window's K steps under each of `metas`, and whether they ran together. First order.

    Args:
        start: from a particle's number to its inner state.
        together: whether they run in one vectorised pass; what torch.func.vmap refuses runs one particle at a time.
        keep: called with a particle's number and its state after the window.
    """
    count = len(metas)
    if together:
        try:
            after, objectives = _vectorised(problem, _stacked([start(i) for i in range(count)]), _stack(metas), window)
        except (RuntimeError, ValueError) as error:
            if not (refusal(error)[0] or refused_by_vmap(error)):
                raise
        else:
            for i in range(count):
                keep(i, with_leaves(after, [{name: leaf[i] for name, leaf in one.items()} for one in leaves_of(after)]))
            return objectives, True
    objectives = []
    for i, meta in enumerate(metas):
        state, objective = trained(problem, start(i), meta, window)
        keep(i, state)
        objectives.append(objective)
        del state
    return objectives, False


def _stacked(states: Sequence[InnerState]) -> InnerState:
    return with_leaves(states[0], [_stack(trees) for trees in zip(*map(leaves_of, states), strict=True)])


def _stack(trees: Sequence[Tree]) -> Tree:
    return tree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def _vectorised(problem: Problem, states: InnerState, metas: Tree, window: Window) -> tuple[InnerState, list[float]]:
    # A loss that seeds a generator of its own draws the same numbers for every particle: it is one function.
    over = functools.partial(torch.func.vmap, randomness="same")
    with torch.no_grad():
        params, slots = over(problem.start)(states.params, metas), states.optimiser
    some = next(iter(metas.values()))
    objectives = some.new_zeros(len(some))
    for inner, outer in zip(window.inner, window.outer, strict=True):
        params = tree.leaves_for_grad(params)
        with torch.enable_grad():
            losses = over(functools.partial(_swapped, problem.inner_loss, inner))(params, metas)
            (gradient,) = gradients(losses.sum(), [params])
        del losses
        with torch.no_grad():
            params, slots = over(problem.optimiser.update)(gradient, tree.detach(params), slots, metas)
            if outer is not None:
                objectives += over(functools.partial(_swapped, problem.outer_loss, outer))(params, metas)
    return InnerState(params, slots), objectives.tolist()


def _swapped(loss: Loss, batch: Batch, params: Tree, meta: Tree) -> torch.Tensor:
    return loss(params, meta, batch)
