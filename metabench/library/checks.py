"""What is checked of a call: cheap things each time, the losses at the first call of each kind, and values only once something failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from metabench.autodiff.optimisers import INNER_OPTIMISERS, inner_optimiser
from metabench.core.checks import check_hypergradient, non_finite
from metabench.core.errors import Diverged, MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient
from metabench.core.problem import InnerOptimiser, MetaRole
from metabench.core.types import Batch, InnerState, Tree, Window
from metabench.library.losses import Losses, alike
from metabench.library.packing import Signature, kind_of, leaves, signature
from metabench.stages.well_posed import (
    check_derivatives,
    check_losses,
    check_rate,
    check_reach,
    check_trees,
    check_values,
    roles_read,
)


def optimiser_of(optimiser: InnerOptimiser | str, learning_rate: float | None) -> InnerOptimiser:
    """Return the inner optimiser; raise MetabenchError if its name is unknown, or the rate is missing or given twice."""
    if not isinstance(optimiser, str):
        if learning_rate is not None:
            raise MetabenchError("learning_rate is for an optimiser given by name, and this one has its own")
        if isinstance(optimiser, type | torch.optim.Optimizer) or not hasattr(optimiser, "update"):
            kind = type(optimiser).__name__ if not isinstance(optimiser, type) else f"class {optimiser.__name__}"
            raise MetabenchError(
                f"the inner optimiser is a {kind}, expected metabench.SGD(0.1), metabench.Adam(1e-3) or another of them"
            )
        return optimiser
    if optimiser not in INNER_OPTIMISERS:
        raise unknown("inner optimiser", optimiser, INNER_OPTIMISERS)
    if learning_rate is None:
        raise MetabenchError(f"optimiser '{optimiser}' needs a learning_rate")
    return inner_optimiser(optimiser, learning_rate)


def window_of(
    inner: Sequence[Any], outer: Any, each: Sequence[Any] | None, device: torch.device
) -> tuple[Window, type, type]:
    """Return the window of these batches, and how inner and outer batches are packed.

    Raises:
        MetabenchError: there is no inner batch or no outer one, their numbers or kinds differ, or one is on another device.
    """
    if isinstance(inner, torch.Tensor | dict) or not isinstance(inner, Sequence):
        raise MetabenchError(f"inner_batches is a {type(inner).__name__}, expected a list of K batches")
    if not inner:
        raise MetabenchError("inner_batches is empty, expected one batch per inner step")
    if outer is None and each is None:
        raise MetabenchError("neither outer_batch nor outer_batches is given, expected one of them")
    if outer is not None and each is not None:
        raise MetabenchError("both outer_batch and outer_batches are given, expected one of them")
    if each is not None and (len(each) != len(inner) or all(batch is None for batch in each)):
        raise MetabenchError(
            f"outer_batches has {sum(batch is not None for batch in each)} batches in {len(each)} places, expected {len(inner)} places, "
            "one per inner step, and a batch in one or more of them"
        )
    inner_trees, inner_kind = _batches(inner, "inner_batches", device)
    outer_trees, outer_kind = _batches(
        [outer] if each is None else each, "outer_batches" if each else "outer_batch", device
    )
    if each is None:
        outer_trees = (None,) * (len(inner) - 1) + outer_trees
    return Window(inner_trees, outer_trees), inner_kind, outer_kind  # type: ignore[arg-type]


def _batches(batches: Sequence[Any], what: str, device: torch.device) -> tuple[tuple[Batch | None, ...], type]:
    first = next((batch for batch in batches if batch is not None), None)
    if first is None:
        raise MetabenchError(f"{what}[0] is None, expected a tensor, or a dict, tuple or list of tensors")
    kind = kind_of(first)
    found: list[Batch | None] = []
    for place, batch in enumerate(batches):
        name = what if what == "outer_batch" else f"{what}[{place}]"
        if batch is None and what == "outer_batches":
            found.append(None)
            continue
        tree = leaves(batch, name)
        if kind_of(batch) is not kind:
            raise MetabenchError(
                f"{name} is a {kind_of(batch).__name__}, the first is a {kind.__name__}: all are packed alike"
            )
        for leaf_name, leaf in tree.items():
            # An operation takes a number from the CPU, whatever its device.
            if leaf.device != device and leaf.dim():
                raise MetabenchError(
                    f"{name}['{leaf_name}'] is on the device {leaf.device}, and the parameters are on {device}"
                )
        found.append(tree)
    return tuple(found), kind


def raise_unless_alike(found: Tree, expected: Tree, what: str = "the state") -> Tree:
    """Return `found`; raise MetabenchError unless it has the names, shapes, dtypes and devices of the parameters."""
    if list(found) != list(expected):
        raise MetabenchError(
            f"{what} has the parameters {list(found)}, and params has {list(expected)}: pass state=None to begin a run"
        )
    for name, leaf in expected.items():
        one, other = found[name], leaf
        if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            raise MetabenchError(
                f"{what} has the parameter '{name}' of shape {tuple(one.shape)} in {one.dtype} on {one.device}, and in params it is of "
                f"shape {tuple(other.shape)} in {other.dtype} on {other.device}"
            )
    return found


def roles_of(
    problem: Losses,
    optimiser: InnerOptimiser,
    start: Callable[[Any, Any], Any] | None,
    roles: Iterable[MetaRole | str] | None,
    state: InnerState,
    meta: Tree,
    window: Window,
    kind: tuple[Signature, Signature],
) -> frozenset[MetaRole]:
    """Return where the meta-parameters enter, found by looking unless given; the first time for each kind of call, check the losses.

    Raises:
        MetabenchError: see `metabench.stages.well_posed`.
    """
    given = None if roles is None else _roles(roles)
    batches = (
        signature(dict(window.inner[0])),
        signature(dict(next(batch for batch in window.outer if batch is not None))),
    )
    key = (alike(optimiser), alike(start), given, problem.stops_gradients, tuple(state.optimiser), kind, batches)
    found: frozenset[MetaRole] | None = problem.looked_at.get(key)
    if found is None:
        try:
            found = _looked_at(problem, given, state, meta, window)
        except Diverged as error:
            raise MetabenchError(not_finite(str(error), state, meta, window)) from error
        problem.looked_at.keep(key, found)
    return found


def _looked_at(
    problem: Losses, given: frozenset[MetaRole] | None, state: InnerState, meta: Tree, window: Window
) -> frozenset[MetaRole]:
    check_trees(state, meta)
    if hasattr(problem.optimiser, "learning_rate"):
        like = next(iter(state.params.values()))
        check_rate("inner", problem.optimiser.learning_rate, meta, len(window.inner), like)
    place = next(iter(state.params.values())).device
    for what, tree in (("parameter", state.params), ("meta-parameter", meta)):
        for name, leaf in tree.items():
            if leaf.device != place:
                raise MetabenchError(
                    f"{what} '{name}' is on the device {leaf.device}, and the first parameter is on {place}"
                )
    slots = list(problem.optimiser.init(state.params))
    if list(state.optimiser) != slots:
        raise MetabenchError(
            f"the state has the optimiser's slots {list(state.optimiser)}, and the inner optimiser has {slots}"
        )
    if given is not None:
        problem.roles = given
        check_losses(problem, state, meta, window)
    else:
        check_values(problem, state, meta, window)
        problem.roles = roles_read(problem, state, meta, window, frozenset(MetaRole))
        if not problem.roles:
            raise MetabenchError(
                f"the meta-parameters {list(meta)} enter neither loss, nor the inner update, nor a start"
            )
        check_reach(problem, state, meta, [window])
    if next(iter(state.params.values())).dtype == torch.float64:
        check_derivatives(problem, state, meta, window)
    return problem.roles


def _roles(roles: Iterable[MetaRole | str]) -> frozenset[MetaRole]:
    known = {role.value: role for role in MetaRole}
    named = [roles] if isinstance(roles, str) else list(roles)
    for role in named:
        if role not in known:
            raise unknown("role", str(role), known)
    return frozenset(known[role] for role in named)


def accepted(found: Hypergradient, state: InnerState, meta: Tree) -> None:
    """Raise MetabenchError unless a method's result is a hypergradient, Diverged unless it is finite."""
    check_hypergradient(found, state, meta)
    # NaN and infinities survive a sum. One that overflows is looked at again.
    trees = [found.meta, found.state.params, *found.state.optimiser.values()]
    total = torch.stack([leaf.sum() for leaves in trees for leaf in leaves.values()]).sum()
    if not math.isfinite(float(total) + found.outer_loss) and (words := non_finite(found)):
        raise Diverged(words)


def not_finite(words: str, state: InnerState, meta: Tree, window: Window) -> str:
    """Return which input holds NaN or an infinity; if none does, `words`, which say where it came up."""
    for what, tree in _inputs(state, meta, window):
        for name, leaf in tree.items():
            if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                return f"{what}['{name}'] holds NaN or an infinity"
    return f"{words}; every input is finite"


def _inputs(state: InnerState, meta: Tree, window: Window) -> Iterator[tuple[str, Batch]]:
    yield "params", state.params
    yield "meta", meta
    for what, batches in (("inner", window.inner), ("outer", window.outer)):
        yield from ((f"{what} batch {place}", batch) for place, batch in enumerate(batches) if batch is not None)
