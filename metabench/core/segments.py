"""A loss as a chain of segments: differentiated piece by piece, it need not fit into memory as a whole.

    hidden_0 = {},    hidden_{i+1} = segment_i(params, meta, batch, hidden_i),    loss = hidden_n["loss"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metabench.core.lazy import torch
from metabench.core.types import Batch, Tree

SegmentFunction: TypeAlias = "Callable[[Tree, Tree, Batch, Tree], Tree]"
"""(params, meta, batch, hidden) -> hidden, each a dict that holds what the segment names, the last one {"loss": a scalar}."""

LOSS = "loss"


@dataclass(frozen=True)
class Segment:
    """A link of the chain: a pure function of its own part of the parameters, meta-parameters and batch, and of the previous link's output.

    Attributes:
        name: for messages: 'block 3'.
        function: the segment itself. Functions that compare equal compute the same and share a trace, between the blocks of a model and
            between problems: instances of a frozen dataclass that holds the model's sizes and is called, say. (Methods compare by the
            identity of their object.) Whatever a function captures besides its arguments counts as constant.
        params: its parameters, (name within the segment, name in the parameter tree) each; a name in the tree may appear in several
            segments (tied weights).
        meta: the names of the meta-parameters that it reads.
        batch: the names of the tensors of the batch that it reads.

    A segment hands on a dict of floating-point tensors, to the next segment alone; what a later one needs is passed through.
    """

    name: str
    function: SegmentFunction
    params: tuple[tuple[str, str], ...] = ()
    meta: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()

    def params_of(self, params: Tree) -> Tree:
        """Return the segment's parameters by their names within it."""
        return {own: params[name] for own, name in self.params}

    def __call__(self, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
        """Return what is handed on, given the whole parameter and meta-parameter trees and the whole batch."""
        own_meta = {name: meta[name] for name in self.meta}
        return self.function(self.params_of(params), own_meta, {name: batch[name] for name in self.batch}, hidden)


def chain_loss(segments: Sequence[Segment], params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
    """Return the loss of a chain, a scalar: what `inner_loss` of a problem with segments may be."""
    hidden: Tree = {}
    for segment in segments:
        hidden = segment(params, meta, batch, hidden)
    return hidden[LOSS]
