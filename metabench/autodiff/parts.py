"""Which parts of the parameters an inner update takes at a time: smaller temporaries are worth a few more calls, and stay in the cache.

An optimiser says what can be taken apart. `leafwise`: a parameter tensor's update depends on no other. `coordinatewise`: a coordinate's
depends on no other, and leaves of slots begin with the shape of their parameter, so that a tensor can be cut, too.
`numbers_per_coordinate`: how many numbers an update keeps for a coordinate while it is differentiated; some optimisers' slots have a leaf
that belongs to no parameter, as a count of steps: all parts share it.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import InnerState, OptimiserState, Tree

WHOLE_BYTES = 2**23
"""Most bytes of temporaries of an update that is taken at once."""

CUT_BYTES = 3 * 2**20
"""Most bytes of temporaries of an update within a tensor, on a CPU: about the size of a core's cache."""

_NUMBERS = 8
"""Numbers for a coordinate, of an optimiser that does not say."""

_PARTS = 8


class Part(NamedTuple):
    """Parameters by name; or, with `rows`, a range of the coordinates of the one parameter named."""

    names: tuple[str, ...]
    rows: slice | None = None

    def of(self, leaves: Tree, params: Tree) -> Tree:
        """Return the part of a tree with a leaf for parameters, flat where it is cut: shape [rows, ...]. `params` says the shapes."""
        if self.rows is None:
            return {name: leaves[name] for name in self.names if name in leaves}
        return {name: _flat(leaves[name], params[name])[self.rows] for name in self.names if name in leaves}

    def put(self, whole: Tree, values: Tree, params: Tree) -> None:
        """Put the part's leaves into the tree that they are a part of: a range is written to the leaf, which is made at first."""
        for name in self.names:
            if name in values and self.rows is None:
                whole[name] = values[name]
            elif name in values:
                value = values[name]
                if name not in whole:
                    whole[name] = _like_rows(value, params[name])
                whole[name].view(-1, *value.shape[1:])[self.rows] = value

    def of_state(self, state: InnerState, params: Tree, shared: OptimiserState) -> InnerState:
        """Return the part of a state, with the leaves of slots that all parts share."""
        slots = {slot: {**shared.get(slot, {}), **self.of(leaves, params)} for slot, leaves in state.optimiser.items()}
        return InnerState(self.of(state.params, params), slots)


def _flat(leaf: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    return leaf.reshape((-1, *leaf.shape[param.dim() :])) if param.dim() != 1 else leaf


def _like_rows(rows: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    """Return an empty leaf of the parameter's shape followed by that of a row; in memory the rows are last where they are in `rows`."""
    shape, each = param.shape, rows.shape[1:]
    if rows.is_contiguous():
        return rows.new_empty(shape + each)
    return rows.new_empty(each + shape).movedim(tuple(range(len(each))), tuple(range(-len(each), 0)))


def shared_slots(slots: OptimiserState, params: Tree) -> OptimiserState:
    """Return the leaves of slots that belong to no parameter."""
    return {slot: {name: leaf for name, leaf in leaves.items() if name not in params} for slot, leaves in slots.items()}


def put_shared(whole: OptimiserState, slots: OptimiserState, shared: OptimiserState) -> None:
    """Put shared leaves that a part's update has changed into the whole: an optimiser of several may leave them to another part."""
    for slot, leaves in shared.items():
        whole[slot].update({name: slots[slot][name] for name, leaf in leaves.items() if slots[slot][name] is not leaf})


def parts_of(optimiser: InnerOptimiser, params: Tree) -> list[Part]:
    """Return the parts that can be updated in turn: one unless the update is leafwise and its temporaries are large."""
    numbers = getattr(optimiser, "numbers_per_coordinate", _NUMBERS)
    sizes = {name: numbers * leaf.numel() * leaf.element_size() for name, leaf in params.items()}
    total = sum(sizes.values())
    if total <= WHOLE_BYTES or not getattr(optimiser, "leafwise", False):
        return [Part(tuple(params))]
    most = total / _PARTS
    cuts = getattr(optimiser, "coordinatewise", False)
    if cuts and next(iter(params.values())).device.type == "cpu":
        most = min(most, CUT_BYTES)
    parts: list[Part] = []
    group: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if group and filled + size > most:
            parts.append(Part(tuple(group)))
            group, filled = [], 0
        if cuts and size > most:
            parts += [Part((name,), rows) for rows in _ranges(params[name].numel(), math.ceil(size / most))]
        else:
            group.append(name)
            filled += size
    return [*parts, Part(tuple(group))] if group else parts


def _ranges(count: int, pieces: int) -> list[slice]:
    """Return `count` coordinates in at most `pieces` ranges of nearly equal length."""
    pieces = min(count, pieces)
    ends = [count * i // pieces for i in range(pieces + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(ends)]
