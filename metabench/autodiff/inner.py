"""The inner run: steps of w_{k+1}, s_{k+1} = Phi(w_k, s_k, l, batch_k), with or without a graph."""

from __future__ import annotations

from collections.abc import Iterable

from metabench.autodiff.gradients import gradients, inner_gradient, outer_value
from metabench.autodiff.optimisers import STEP_COUNT
from metabench.core import tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser, Problem
from metabench.core.types import Batch, InnerState, Tree, Window


def step(problem: Problem, state: InnerState, meta: Tree, batch: Batch) -> InnerState:
    """Return the next inner state. First order: leaves no graph."""
    return updated(problem, inner_gradient(problem, state.params, meta, batch), state, meta)


def updated(problem: Problem, gradient: Tree, state: InnerState, meta: Tree) -> InnerState:
    """Return the inner state after the update by `gradient`. Leaves no graph."""
    parts = parts_of(problem.optimiser, state.params)
    with torch.no_grad():
        if len(parts) == 1:
            return InnerState(*problem.optimiser.update(gradient, state.params, state.optimiser, meta))
        params: Tree = {}
        slots: dict[str, Tree] = {}
        for names in parts:
            part = part_of(state, names)
            given = {name: gradient[name] for name in names}
            moved, kept = problem.optimiser.update(given, part.params, part.optimiser, meta)
            params |= moved
            for slot, leaves in kept.items():
                slots.setdefault(slot, {}).update(leaves)
    return InnerState(params, slots)


WHOLE_BYTES = 2**20
"""Largest number of parameters updated at once: beyond it, smaller temporaries are worth a few more calls."""

_PARTS = 8


def parts_of(optimiser: InnerOptimiser, params: Tree) -> list[list[str]]:
    """Return the names of the parameters in groups that can be updated in turn: one group unless the update is leafwise."""
    sizes = {name: leaf.numel() * leaf.element_size() for name, leaf in params.items()}
    total = sum(sizes.values())
    if total <= WHOLE_BYTES or not getattr(optimiser, "leafwise", False):
        return [list(params)]
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > total / _PARTS:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def part_of(state: InnerState, names: Iterable[str], shared: bool = True) -> InnerState:
    """Return the state of some of the parameters, for a leafwise optimiser; the step count, which all share, only if `shared`."""
    chosen = set(names)
    params = {name: leaf for name, leaf in state.params.items() if name in chosen}
    slots = {}
    for slot, leaves in state.optimiser.items():
        if slot == STEP_COUNT:
            slots |= {slot: leaves} if shared else {}
        else:
            slots[slot] = {name: leaf for name, leaf in leaves.items() if name in chosen}
    return InnerState(params, slots)


def run(problem: Problem, state: InnerState, meta: Tree, batches: Iterable[Batch]) -> InnerState:
    """Return the inner state after a step on each of `batches`. First order."""
    for batch in batches:
        state = step(problem, state, meta, batch)
    return state


def run_with_outer_losses(
    problem: Problem, state: InnerState, meta: Tree, inner: Iterable[Batch], outer: Iterable[Batch | None]
) -> tuple[InnerState, float]:
    """Return the state after a step on each of `inner`, and the sum of the outer losses due on the way. First order.

    outer: after each step, the batch of the outer loss due there, or None.
    """
    objective = 0.0
    for batch, due in zip(inner, outer, strict=True):
        state = step(problem, state, meta, batch)
        if due is not None:
            objective += outer_value(problem, state.params, meta, due)
    return state, objective


def trained(problem: Problem, state: InnerState, meta: Tree, window: Window) -> tuple[InnerState, float]:
    """Return the inner state after the window's K steps, and the window's outer objective. First order."""
    return run_with_outer_losses(problem, begun(problem, state, meta), meta, window.inner, window.outer)


def recorded_step(problem: Problem, state: InnerState, meta: Tree, batch: Batch) -> InnerState:
    """Return the next inner state with its graph, from everything in `state` and `meta` that requires a gradient."""
    params = variables_of(state.params)
    (gradient,) = gradients(problem.inner_loss(params, meta, batch), [params], create_graph=True)
    return InnerState(*problem.optimiser.update(gradient, params, state.optimiser, meta))


def variables_of(params: Tree) -> Tree:
    """Return the same values as variables of a derivative, each a separate tensor; the graph behind a leaf continues through it.

    A start may return a meta-parameter itself, or one tensor under two names. A derivative in that tensor would add up all its roles.
    """
    return tree.tree_map(
        lambda leaf: leaf.view_as(leaf) if leaf.requires_grad else leaf.detach().requires_grad_(), params
    )


def begin(problem: Problem, state: InnerState, meta: Tree) -> InnerState:
    """Return the state from which the window's inner run starts: `state`, its parameters passed through the problem's start."""
    return InnerState(problem.start(state.params, meta), state.optimiser)


def begun(problem: Problem, state: InnerState, meta: Tree) -> InnerState:
    """Return what `begin` returns, without a graph."""
    with torch.no_grad():
        return detached(begin(problem, state, meta))


def detached(state: InnerState) -> InnerState:
    """Return the same values without a graph."""
    return InnerState(
        tree.detach(state.params), {slot: tree.detach(leaves) for slot, leaves in state.optimiser.items()}
    )


def leaves_of(state: InnerState) -> list[Tree]:
    """Return the trees of a state: the parameters, then the optimiser's slots in order."""
    return [state.params, *state.optimiser.values()]


def with_leaves(state: InnerState, trees: list[Tree]) -> InnerState:
    """Return a state shaped like `state` from the trees that `leaves_of` lists."""
    return InnerState(trees[0], dict(zip(state.optimiser, trees[1:], strict=True)))


def check_finite(state: InnerState) -> None:
    """Raise Diverged if a parameter is not finite."""
    for name, leaf in state.params.items():
        if not bool(torch.isfinite(leaf).all()):
            raise Diverged(f"parameter '{name}' is not finite")
