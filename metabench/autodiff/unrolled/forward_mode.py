"""Forward mode through an inner run: it carries dstate/dl_j, for every scalar l_j or along other directions, with the state.

    Z_j <- (dPhi / d state) Z_j + dPhi / dl_j,    dF/dl_j += <dF/dw, Z_j> + the direct term.
Franceschi et al. 2017, section 3.2. Dual numbers give the tangent of a step, through the backward pass of the inner gradient
(forward over reverse) and through the update. Tangents are stacked: a leaf of shape [...] has those of all of them in one of [count, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from metabench.autodiff.dual import dual, stopping, tangent
from metabench.autodiff.gradients import gradients, outer_gradient
from metabench.autodiff.inner import begun, leaves_of, with_leaves
from metabench.autodiff.traced.missing_derivatives import refusal, refused_by_vmap
from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import Batch, InnerState, Tree, Window

Directions: TypeAlias = Callable[[slice], Tree]
"""From rows to directions in the meta-parameters, stacked: leaves of shape [rows, ...]."""


def units(meta: Tree) -> Directions:
    """Return the unit vectors e_j of the meta-parameters."""
    flat, sizes = tree.flatten(meta), [leaf.numel() for leaf in meta.values()]

    def stacked(rows: slice) -> Tree:
        found = flat.new_zeros((rows.stop - rows.start, len(flat)))
        found.diagonal(rows.start).fill_(1)
        pieces = found.split(sizes, dim=1)
        return {
            name: piece.reshape(len(found), *leaf.shape).to(leaf.dtype)
            for (name, leaf), piece in zip(meta.items(), pieces, strict=True)
        }

    return stacked


@dataclass(frozen=True)
class Along:
    """What a run gives along some directions.

    Attributes:
        slopes: of the outer losses along each direction through the inner state, without their direct terms, shape [directions].
        direct: the direct terms, shaped as the meta-parameters.
        state: at the end of the run.
        tangents: of that state along each direction, stacked.
        outer_loss: the sum of those due.
        together: JVPs that a pass carried.
    """

    slopes: torch.Tensor
    direct: Tree
    state: InnerState
    tangents: InnerState
    outer_loss: float
    together: int


def run_along(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    directions: Directions,
    count: int,
    together: int,
    carried: InnerState | None = None,
) -> Along:
    """Take the K steps of a window, and carry the tangents of the inner state along `count` directions in the meta-parameters.

    Args:
        problem: as methods are given it.
        state: from which the window begins.
        meta: the meta-parameters.
        window: of K steps.
        directions: in the meta-parameters.
        count: how many.
        together: JVPs in one vectorised pass.
        carried: the tangents of `state`; None where they are those of the start.

    Raises:
        Unsupported: an operation of the inner step has no forward-mode derivative.
    """
    meta = tree.tree_map(torch.Tensor.contiguous, tree.detach(meta))
    current = begun(problem, state, meta)
    # Tangents are dense, and torch asks a value to be laid out as its tangent is: expanded parameters are not.
    current = with_leaves(current, [tree.tree_map(torch.Tensor.contiguous, leaves) for leaves in leaves_of(current)])
    if carried is None:
        tangents = start_tangents(problem, state, current, meta, directions, count)
    else:
        # Steps write to them, and what a method is given stays as it is.
        tangents = with_leaves(current, [tree.tree_map(torch.Tensor.clone, leaves) for leaves in leaves_of(carried)])
    direct, value = tree.zeros_like(meta), 0.0
    slopes = next(iter(current.params.values())).new_zeros(count)
    for inner, outer in zip(window.inner, window.outer, strict=True):
        current, together = step_with_tangents(problem, current, tangents, meta, inner, together, directions, count)
        if outer is not None:
            due = outer_gradient(problem, current.params, meta, outer)
            value += due.loss
            direct = tree.add(direct, due.meta)
            slopes = slopes + pulled_by_tangents(tangents, due.params, count)
            del due
    return Along(slopes, direct, current, tangents, value, together)


def forward_hypergradient(
    problem: Problem,
    state: InnerState,
    meta: Tree,
    window: Window,
    *,
    most: int,
    together: int,
    carried: InnerState | None = None,
) -> tuple[Hypergradient, InnerState]:
    """Return dF(w_K, l)/dl by the tangents of the inner state along every scalar of l, and these tangents at the window's end.

    Args: as `run_along`, and `most`, meta-parameters that are accepted.

    Raises:
        Unsupported: there are more, or as `run_along`.
    """
    if (size := tree.count(meta)) > most:
        held = size * sum(leaf.numel() * leaf.element_size() for leaves in leaves_of(state) for leaf in leaves.values())
        raise Unsupported(
            f"there are {size:,} meta-parameters, and forward mode takes at most {most:,} (option 'most'): each has a tangent as large as "
            f"the inner state, {held:,} bytes in all"
        )
    found = run_along(problem, state, meta, window, units(meta), size, together, carried)
    total = tree.add(found.direct, tree.unflatten(found.slopes, meta))
    return Hypergradient(total, found.state, found.outer_loss, {"together": float(found.together)}), found.tangents


def start_tangents(
    problem: Problem, state: InnerState, started: InnerState, meta: Tree, directions: Directions, count: int
) -> InnerState:
    """Return the stacked tangents of the state `started`, from which the run of a window that is given `state` begins."""
    trees = [tree.tree_map(lambda leaf: leaf.new_zeros((count, *leaf.shape)), leaves) for leaves in leaves_of(started)]
    tangents = with_leaves(started, trees)
    if MetaRole.START in problem.roles:
        params, constant = tree.detach(state.params), tree.zeros_like(state.params)
        for j in range(count):
            rows = slice(j, j + 1)
            with torch.enable_grad(), torch.autograd.forward_ad.dual_level():
                learned = stopping(problem.start)(dual(params, constant), dual(meta, _alone(directions(rows))))
                _write(tangents.params, rows, tree.tree_map(lambda leaf: tangent(leaf)[None], learned))
    return tangents


def step_with_tangents(
    problem: Problem,
    state: InnerState,
    tangents: InnerState,
    meta: Tree,
    batch: Batch,
    together: int,
    directions: Directions,
    count: int,
) -> tuple[InnerState, int]:
    """Return the next inner state, and update `tangents` in place: a JVP of the step map along every direction.

    One vectorised pass of torch.func carries `together` of them and computes the state once for all. With 1, each direction has its
    own pass of plain dual numbers, which supports any loss that torch can differentiate; so do losses that torch.func.vmap refuses. The
    number carried together is returned with the state. The step leaves no graph; only the tangents of one pass are held twice.

    Raises:
        Unsupported: an operation of the step has no forward-mode derivative.
    """
    after, first = state, 0
    while first < count:
        rows = slice(first, min(first + together, count))
        carry = _dual_pass if together == 1 else _vectorised_pass
        try:
            moved, moved_tangents = carry(problem, state, _rows(tangents, rows), meta, directions(rows), batch)
        except (RuntimeError, ValueError) as error:
            words, _ = refusal(error)
            if together > 1 and (words or refused_by_vmap(error)):
                together = 1
                continue
            if words:
                raise Unsupported(f"forward mode cannot take the inner step: {words}") from error
            raise
        if first == 0:
            after = moved
        for kept, leaves in zip(leaves_of(tangents), leaves_of(moved_tangents), strict=True):
            _write(kept, rows, leaves)
        first = rows.stop
    return after, together


def pulled_by_tangents(tangents: InnerState, cotangent: Tree, count: int) -> torch.Tensor:
    """Return <cotangent, Z_j> for every direction, shape [count]; the cotangent is of the parameters."""
    products = [tangents.params[name].reshape(count, leaf.numel()) @ leaf.flatten() for name, leaf in cotangent.items()]
    return torch.stack(products).sum(0)


def _vectorised_pass(
    problem: Problem, state: InnerState, tangents: InnerState, meta: Tree, units: Tree, batch: Batch
) -> tuple[InnerState, InnerState]:
    """Return the next state and its tangents along each of the stacked (tangents, units)."""

    inner_loss = stopping(problem.inner_loss)

    def step(leaves: list[Tree], values: Tree) -> list[Tree]:
        before = with_leaves(state, leaves)
        gradient = torch.func.grad(lambda params: inner_loss(params, values, batch))(before.params)
        return leaves_of(InnerState(*problem.optimiser.update(gradient, before.params, before.optimiser, values)))

    def along(leaves: list[Tree], unit: Tree) -> tuple[list[Tree], list[Tree]]:
        return torch.func.jvp(step, (leaves_of(state), meta), (leaves, unit))  # type: ignore[return-value]

    # A loss that seeds a generator of its own draws the same numbers along every direction: it is one function.
    moved, moved_tangents = torch.func.vmap(along, randomness="same")(leaves_of(tangents), units)
    # The state is the same along all of them: what vmap stacks here is one tensor, expanded.
    first = [tree.tree_map(lambda leaf: leaf[0].clone(), leaves) for leaves in moved]
    return with_leaves(state, first), with_leaves(state, moved_tangents)


def _dual_pass(
    problem: Problem, state: InnerState, tangents: InnerState, meta: Tree, units: Tree, batch: Batch
) -> tuple[InnerState, InnerState]:
    """Return the same, for one direction stacked alone."""
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        meta = dual(meta, _alone(units))
        stacked = zip(leaves_of(state), leaves_of(tangents), strict=True)
        before = with_leaves(state, [dual(leaves, _alone(rows)) for leaves, rows in stacked])
        params = tree.tree_map(lambda leaf: leaf.requires_grad_(), before.params)
        with torch.enable_grad():
            loss = stopping(problem.inner_loss)(params, meta, batch)
            seed = forward_ad.make_dual(torch.ones_like(loss), torch.zeros_like(loss))
            (gradient,) = gradients(loss, [params], [seed])
        del loss
        with torch.no_grad():
            moved = leaves_of(InnerState(*problem.optimiser.update(gradient, params, before.optimiser, meta)))
        primals = [tree.tree_map(lambda leaf: forward_ad.unpack_dual(leaf).primal.detach(), leaves) for leaves in moved]
        found = [tree.tree_map(lambda leaf: tangent(leaf)[None], leaves) for leaves in moved]
    return with_leaves(state, primals), with_leaves(state, found)


def _rows(stacked: InnerState, rows: slice) -> InnerState:
    return with_leaves(stacked, [tree.tree_map(lambda leaf: leaf[rows], leaves) for leaves in leaves_of(stacked)])


def _alone(stacked: Tree) -> Tree:
    return tree.tree_map(lambda leaf: leaf[0], stacked)


def _write(stacked: Tree, rows: slice, values: Tree) -> None:
    for name, leaf in values.items():
        stacked[name][rows].copy_(leaf)
