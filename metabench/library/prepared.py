"""A user's arguments as what a method is given: a problem, an inner state, meta-parameters and a window."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.optimisers import Rate, Scheduled
from metabench.autodiff.traced.segment_graphs import Itself
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser, MetaRole
from metabench.core.types import InnerState, Tree, Window
from metabench.library.checks import optimiser_of, raise_unless_alike, roles_of, window_of
from metabench.library.losses import Kinds, Losses, losses_of
from metabench.library.packing import ALONE, kind_of, leaves, packed, signature, variables


@dataclass(frozen=True)
class Prepared:
    """What a method is given, and how the user packs it."""

    problem: Losses
    state: InnerState
    meta: Tree
    window: Window
    kinds: Kinds


def prepared(
    inner_loss: Callable[[Any, Any, Any], torch.Tensor],
    outer_loss: Callable[[Any, Any, Any], torch.Tensor],
    params: Any,
    meta: Any,
    inner_batches: Sequence[Any],
    outer_batch: Any = None,
    *,
    optimiser: InnerOptimiser | str,
    learning_rate: float | None = None,
    outer_batches: Sequence[Any] | None = None,
    state: InnerState | None = None,
    start: Callable[[Any, Any], Any] | None = None,
    roles: Iterable[MetaRole | str] | None = None,
    stops_gradients: bool = False,
    keep: bool = True,
) -> Prepared:
    """Return the arguments of `metabench.hypergradient`, checked; `keep` says whether traces are kept with the inner loss.

    Raises:
        MetabenchError: an argument is not valid.
    """
    optimiser = optimiser_of(optimiser, learning_rate)
    values, meta_values = variables(params, "params"), variables(meta, "meta")
    device = next(iter(values.values())).device
    window, inner_kind, outer_kind = window_of(inner_batches, outer_batch, outer_batches, device)

    modules = {}
    if isinstance(params, torch.nn.Module):
        modules["params"] = params
    if isinstance(meta, torch.nn.Module) and meta is not params:
        modules["meta"] = meta
    kinds = Kinds(kind_of(params), kind_of(meta), inner_kind, outer_kind)
    kind = signature(values), signature(meta_values)
    if keep:
        losses = losses_of(inner_loss, outer_loss, kinds, modules, (kind, _constants(modules)) if modules else None)
    else:
        losses = Losses(inner_loss, outer_loss, kinds, modules)

    problem = copy.copy(losses)
    problem.stops_gradients = stops_gradients
    problem.optimiser = _on_trees(optimiser, kinds.meta)
    if state is None:
        state = InnerState(values, problem.optimiser.init(values))
        if start is not None:
            problem.started_by(_start_on_trees(start, kinds))
    elif not isinstance(state, InnerState):
        raise MetabenchError(f"the state is a {type(state).__name__}, expected the `state` of a previous result")
    else:
        raise_unless_alike(state.params, values)
    problem.roles = roles_of(problem, optimiser, start, roles, state, meta_values, window, kind)
    return Prepared(problem, state, meta_values, window, kinds)


def _constants(modules: Mapping[str, torch.nn.Module]) -> Hashable:
    """Return what a use of the modules depends on besides their trained parameters: modes, frozen parameters and buffers, by identity."""
    return tuple(
        (
            module.training,
            *(Itself(leaf) for leaf in (*module.parameters(), *module.buffers()) if not leaf.requires_grad),
        )
        for module in modules.values()
    )


def _on_trees(optimiser: InnerOptimiser, meta: type) -> InnerOptimiser:
    """Return the optimiser with a learned rate that reads a tree where the user's reads a single tensor."""
    rate = getattr(optimiser, "learning_rate", None)
    if meta is not torch.Tensor or rate is None or not dataclasses.is_dataclass(optimiser):
        return optimiser
    changed: Any = dataclasses.replace(optimiser, learning_rate=_rate_on_trees(rate))
    return changed


def _rate_on_trees(rate: Rate) -> Rate:
    if isinstance(rate, Scheduled):
        return Scheduled(_rate_on_trees(rate.rate), rate.schedule)
    if not callable(rate):
        return rate
    on_tensor: Callable[[Any, torch.Tensor], Any] = rate

    @functools.wraps(on_tensor, updated=())
    def on_tree(tree: Tree, step: torch.Tensor) -> torch.Tensor | Tree:
        found: torch.Tensor | Tree = on_tensor(tree[ALONE], step)
        return found

    return on_tree


def _start_on_trees(start: Callable[[Any, Any], Any], kinds: Kinds) -> Callable[[Tree, Tree], Tree]:
    def on_trees(params: Tree, meta: Tree) -> Tree:
        started = leaves(start(packed(kinds.params, params), packed(kinds.meta, meta)), "what `start` returns")
        return raise_unless_alike(started, params, "what `start` returns")

    return on_trees
