"""The inner run: steps of w_{k+1}, s_{k+1} = Phi(w_k, s_k, l, batch_k), with or without a graph."""

from __future__ import annotations

from collections.abc import Iterable

from metabench.autodiff.gradients import gradients, inner_gradient, outer_value
from metabench.autodiff.parts import parts_of, put_shared, shared_slots
from metabench.core import tree
from metabench.core.errors import Diverged
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import Batch, InnerState, Tree, Window


def step(problem: Problem, state: InnerState, meta: Tree, batch: Batch, *, spent: bool = False) -> InnerState:
    """Return the next inner state. First order: leaves no graph. `spent` as in `updated`."""
    return updated(problem, inner_gradient(problem, state.params, meta, batch), state, meta, spent=spent)


def updated(problem: Problem, gradient: Tree, state: InnerState, meta: Tree, *, spent: bool = False) -> InnerState:
    """Return the inner state after the update by `gradient`. Leaves no graph.

    spent: whether `state` is what this function returned before, and nobody else's: an update in parts then takes its place.
    """
    parts = parts_of(problem.optimiser, state.params)
    with torch.no_grad():
        if len(parts) == 1:
            return InnerState(*problem.optimiser.update(gradient, state.params, state.optimiser, meta))
        like, shared = dict(state.params), shared_slots(state.optimiser, state.params)
        after = state if spent else InnerState({}, {slot: dict(leaves) for slot, leaves in shared.items()})
        for part in parts:
            given = part.of_state(state, like, shared)
            moved, kept = problem.optimiser.update(part.of(gradient, like), given.params, given.optimiser, meta)
            part.put(after.params, moved, like)
            for slot, leaves in kept.items():
                part.put(after.optimiser[slot], leaves, like)
            put_shared(after.optimiser, kept, shared)
    return after


def run(problem: Problem, state: InnerState, meta: Tree, batches: Iterable[Batch]) -> InnerState:
    """Return the inner state after a step on each of `batches`. First order."""
    for k, batch in enumerate(batches):
        state = step(problem, state, meta, batch, spent=k > 0)
    return state


def run_with_outer_losses(
    problem: Problem, state: InnerState, meta: Tree, inner: Iterable[Batch], outer: Iterable[Batch | None]
) -> tuple[InnerState, float]:
    """Return the state after a step on each of `inner`, and the sum of the outer losses due on the way. First order.

    outer: after each step, the batch of the outer loss due there, or None.
    """
    objective = 0.0
    for k, (batch, due) in enumerate(zip(inner, outer, strict=True)):
        state = step(problem, state, meta, batch, spent=k > 0)
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
