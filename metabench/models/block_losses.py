"""Losses of a chain of blocks, where some of its parameters are meta-parameters, or are held near them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from metabench.core.segments import LOSS, Segment, SegmentFunction
from metabench.core.types import Batch, Tree

_PENALTY = "penalty"
Names = tuple[tuple[str, str], ...]
"""(name within a block, name in the tree) each."""


@dataclass(frozen=True)
class FromMeta:
    """A block some of whose parameters are meta-parameters: those that do not adapt."""

    block: SegmentFunction
    names: Names

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return what the block hands on."""
        return self.block({**params, **{own: meta[name] for own, name in self.names}}, {}, batch, hidden)


@dataclass(frozen=True)
class Proximal:
    """A block, and `strength` / 2 times the squared distance of its parameters to the meta-parameters. Rajeswaran et al. 2019, eq. 3."""

    block: SegmentFunction
    names: Names
    strength: float

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return what the block hands on and the penalty so far, or the loss with the penalty."""
        found = dict(self.block(params, {}, batch, hidden))
        terms = [(params[own] - meta[name]).square().sum() for own, name in self.names]
        # A block without parameters adds nothing; the first has nothing behind it.
        parts = [*terms, *(hidden[name] for name in (_PENALTY,) if name in hidden)]
        if not parts:
            return found
        last = LOSS if LOSS in found else _PENALTY
        penalty = self.strength / 2 * sum(terms) + hidden.get(_PENALTY, 0)
        found[last] = found[LOSS] + penalty if last == LOSS else penalty
        return found


def from_meta(segments: Sequence[Segment], adapted: Collection[str]) -> tuple[Segment, ...]:
    """Return the chain in which all parameters but the adapted ones are meta-parameters."""
    found = []
    for segment in segments:
        ours = tuple(pair for pair in segment.params if pair[1] in adapted)
        theirs = tuple(pair for pair in segment.params if pair[1] not in adapted)
        placed = FromMeta(segment.function, theirs) if theirs else segment.function
        found.append(Segment(segment.name, placed, ours, tuple(name for _, name in theirs), segment.batch))
    return tuple(found)


def proximal(segments: Sequence[Segment], strength: float) -> tuple[Segment, ...]:
    """Return the chain with strength / 2 |w - l|^2 added to its loss: each block adds its part."""
    return tuple(
        Segment(
            segment.name,
            Proximal(segment.function, segment.params, strength),
            segment.params,
            tuple(name for _, name in segment.params),
            segment.batch,
        )
        for segment in segments
    )
