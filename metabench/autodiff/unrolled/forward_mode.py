"""Forward mode through an inner run: it carries dstate/dl_j, for every scalar l_j of the meta-parameters, with the state.

    Z_j <- (dPhi / d state) Z_j + dPhi / dl_j,    dF/dl_j += <dF/dw, Z_j> + the direct term.
Franceschi et al. 2017, section 3.2. Dual numbers give the tangent of a step, through the backward pass of the inner gradient
(forward over reverse) and through the update. Tangents are stacked: a leaf of shape [...] has those of all scalars in one of [|l|, ...].
"""

from __future__ import annotations

from metabench.autodiff.dual import dual, stopping, tangent
from metabench.autodiff.gradients import gradients
from metabench.autodiff.inner import leaves_of, with_leaves
from metabench.autodiff.traced.missing_derivatives import refusal, refused_by_vmap
from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import MetaRole, Problem
from metabench.core.types import Batch, InnerState, Tree


def start_tangents(problem: Problem, state: InnerState, started: InnerState, meta: Tree) -> InnerState:
    """Return the stacked tangents of the state `started`, from which the run of a window that is given `state` begins."""
    size = tree.count(meta)
    trees = [tree.tree_map(lambda leaf: leaf.new_zeros((size, *leaf.shape)), leaves) for leaves in leaves_of(started)]
    tangents = with_leaves(started, trees)
    if MetaRole.START in problem.roles:
        params, constant = tree.detach(state.params), tree.zeros_like(state.params)
        for j in range(size):
            rows = slice(j, j + 1)
            with torch.enable_grad(), torch.autograd.forward_ad.dual_level():
                learned = stopping(problem.start)(dual(params, constant), dual(meta, _alone(_units(meta, rows))))
                _write(tangents.params, rows, tree.tree_map(lambda leaf: tangent(leaf)[None], learned))
    return tangents


def step_with_tangents(
    problem: Problem, state: InnerState, tangents: InnerState, meta: Tree, batch: Batch, together: int
) -> tuple[InnerState, int]:
    """Return the next inner state, and update `tangents` in place: a JVP of the step map for every scalar of `meta`.

    One vectorised pass of torch.func carries `together` scalars and computes the state once for all of them. With 1, each scalar has its
    own pass of plain dual numbers, which supports any loss that torch can differentiate; so do losses that torch.func.vmap refuses. The
    number carried together is returned with the state. The step leaves no graph; only the tangents of one pass are held twice.

    Raises:
        Unsupported: an operation of the step has no forward-mode derivative.
    """
    size = tree.count(meta)
    after, first = state, 0
    while first < size:
        rows = slice(first, min(first + together, size))
        carry = _dual_pass if together == 1 else _vectorised_pass
        try:
            moved, moved_tangents = carry(problem, state, _rows(tangents, rows), meta, _units(meta, rows), batch)
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


def pulled_by_tangents(tangents: InnerState, cotangent: Tree, meta: Tree) -> Tree:
    """Return <cotangent, Z_j> for every scalar, shaped as the meta-parameters; the cotangent is of the parameters."""
    size = tree.count(meta)
    products = [tangents.params[name].reshape(size, leaf.numel()) @ leaf.flatten() for name, leaf in cotangent.items()]
    return tree.unflatten(torch.stack(products).sum(0), meta)


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


def _units(meta: Tree, rows: slice) -> Tree:
    """Return the unit vectors e_j of `rows`, stacked, each shaped as the meta-parameters."""
    flat = tree.flatten(meta)
    units = flat.new_zeros((rows.stop - rows.start, len(flat)))
    units.diagonal(rows.start).fill_(1)
    pieces = units.split([leaf.numel() for leaf in meta.values()], dim=1)
    return {
        name: piece.reshape(len(units), *leaf.shape).to(leaf.dtype)
        for (name, leaf), piece in zip(meta.items(), pieces, strict=True)
    }


def _rows(stacked: InnerState, rows: slice) -> InnerState:
    return with_leaves(stacked, [tree.tree_map(lambda leaf: leaf[rows], leaves) for leaves in leaves_of(stacked)])


def _alone(stacked: Tree) -> Tree:
    return tree.tree_map(lambda leaf: leaf[0], stacked)


def _write(stacked: Tree, rows: slice, values: Tree) -> None:
    for name, leaf in values.items():
        stacked[name][rows].copy_(leaf)
