"""Derivatives of a loss that is a chain of segments, segment by segment, on flat graphs.

With rematerialised blocks the forward pass keeps only what a segment hands on; the backward pass recomputes its value.
Without, whatever its backward pass reads is kept.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from metabench.autodiff.gradients import filled
from metabench.autodiff.traced import segment_graphs as names
from metabench.autodiff.traced.execution import Execution
from metabench.autodiff.traced.flat_graph import SAVED, Groups
from metabench.autodiff.traced.segment_graphs import SegmentGraphs, segment_graphs
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.segments import LOSS, Segment
from metabench.core.types import Batch, Tree


class Gradient(NamedTuple):
    """A loss, a scalar, and its gradients; trees not requested are empty."""

    loss: torch.Tensor
    params: Tree
    meta: Tree


class Chain:
    """The inner or the outer loss of a problem as a chain of segments; one segment where the problem offers none."""

    def __init__(
        self, problem: Problem, which: Literal["inner", "outer"], block_remat: bool, execution: Execution | None = None
    ) -> None:
        self._problem, self._which = problem, which
        self._offered = tuple(problem.inner_segments() if which == "inner" else problem.outer_segments())
        self._block_remat, self._execution = block_remat, execution or Execution()
        self.untraced: set[str] = set()
        """Names of the segments that could not be traced."""

    def gradient(
        self, params: Tree, meta: Tree, batch: Batch, *, of_params: bool = True, of_meta: bool = False
    ) -> Gradient:
        """Return the loss and its gradients; a leaf that the loss does not depend on gets zeros."""
        loss = next(iter(params.values())).new_zeros(())
        of: tuple[Tree, Tree] = ({}, {})
        for segment, found in self._back(params, meta, batch, None, of_params, of_meta):
            loss = found.get(names.OUT, {}).get(LOSS, loss)
            _accumulate(of[0], segment.params, found.get(names.G_PARAMS, {}))
            _accumulate(of[1], _same(segment.meta), found.get(names.G_META, {}))
        return Gradient(loss, filled(of[0], params) if of_params else {}, filled(of[1], meta) if of_meta else {})

    def products(
        self, params: Tree, meta: Tree, batch: Batch, direction: Tree, *, into: Tree | None, mixed: bool
    ) -> tuple[Tree, Tree]:
        """Return (into + (d2f/dw2) v, (d2f/dl dw) v) with v = `direction`, by one JVP of the backward pass along (v, 0).

        Without `into` there is no Hessian product, without `mixed` no mixed one: an empty tree takes its place. `into` is consumed:
        its leaves are replaced one after another, so that two whole trees of them are never alive.
        """
        total = {} if into is None else into
        share: Tree = {}
        for segment, found in self._back(params, meta, batch, direction, into is not None, mixed):
            _accumulate(total, segment.params, found.get(names.H_PARAMS, {}))
            _accumulate(share, _same(segment.meta), found.get(names.H_META, {}))
        return total, filled(share, meta) if mixed else {}

    def kept_bytes(self, params: Tree, meta: Tree, batch: Batch) -> Iterator[tuple[int, int]]:
        """Yield, for each segment, the bytes that it hands on and those that its first-order backward pass reads.

        Nothing is computed: both follow from the traces.
        """
        segments = self.segments(params, meta, batch)
        hidden: Tree = {}
        for i, segment in enumerate(segments):
            groups = _inputs(segment, params, meta, batch, None, hidden, {})
            graphs = self._graphs(segment, groups, dual=False, last=i == len(segments) - 1)
            hidden = graphs.like
            yield sum(leaf.numel() * leaf.element_size() for leaf in hidden.values()), graphs.kept_bytes

    def check(self, params: Tree, meta: Tree, batch: Batch) -> None:
        """Trace the products of every segment that can be traced.

        Raises:
            Unsupported: an operation lacks a required derivative; the message names the operation and its place.
        """
        segments = self.segments(params, meta, batch)
        hidden: Tree = {}
        for i, segment in enumerate(segments):
            groups = _inputs(segment, params, meta, batch, params, hidden, hidden)
            graphs = self._graphs(segment, groups, dual=True, last=i == len(segments) - 1)
            if graphs.reason:
                return
            hidden = graphs.like

    def segments(self, params: Tree, meta: Tree, batch: Batch) -> tuple[Segment, ...]:
        """Return the chain. A loss in one piece is a method of the problem, and its traces belong to the problem."""
        if self._offered:
            return self._offered
        function = types.MethodType(_inner if self._which == "inner" else _outer, self._problem)
        return (Segment(f"the {self._which} loss", function, tuple(_same(params)), tuple(meta), tuple(batch)),)

    def _back(
        self, params: Tree, meta: Tree, batch: Batch, direction: Tree | None, of_params: bool, of_meta: bool
    ) -> Iterator[tuple[Segment, Groups]]:
        """Yield (segment, its results) from the last segment back to the first one needed."""
        segments = self.segments(params, meta, batch)
        first = _first_asked(segments, of_params, of_meta)
        boundaries: list[tuple[Tree, Tree] | None] = [({}, {})]
        saved: list[Tree | None] = []

        def handed_on(i: int) -> tuple[Tree, Tree]:
            """Return the input of segment i. The output of the first is recomputed if it was not kept."""
            boundary = boundaries[i]
            if boundary is not None:
                return boundary
            groups = _inputs(segments[0], params, meta, batch, direction, {}, {})
            found = self._execution(self._graphs(segments[0], groups, direction is not None, last=False).ahead, groups)
            return _contiguous(found[names.OUT]), _contiguous(found.get(names.D_OUT, {}))

        for i, segment in enumerate(segments[:-1]):
            groups = _inputs(segment, params, meta, batch, direction, *handed_on(i))
            graphs = self._graphs(segment, groups, direction is not None, last=False)
            keeps = not self._block_remat and i >= first
            piece = graphs.halves(of_params, of_meta)[0] if keeps else graphs.ahead
            found = self._execution(piece, groups)
            saved.append(found.get(SAVED, {}) if keeps else None)
            boundaries.append((_contiguous(found[names.OUT]), _contiguous(found.get(names.D_OUT, {}))))
            del found
            if i == 0:
                looked_up = self._block_remat and not graphs.multiplies
            elif i == 1 and looked_up:
                boundaries[1] = None

        cotangents: Groups = {}
        for i in range(len(segments) - 1, first - 1, -1):
            segment, last = segments[i], i == len(segments) - 1
            groups = _inputs(segment, params, meta, batch, direction, *handed_on(i)) | cotangents
            boundaries.pop()
            cotangents = {}
            graphs = self._graphs(segment, groups, direction is not None, last)
            kept = None if last else saved.pop()
            if last:
                piece = graphs.through(of_params, of_meta)
            elif kept is None:
                piece = graphs.back(of_params, of_meta)
            else:
                piece = graphs.halves(of_params, of_meta)[1]
                groups[SAVED] = kept
            del kept
            found = self._execution(piece, groups)
            before = {names.COTANGENT: found.pop(names.G_HIDDEN, {}), names.D_COTANGENT: found.pop(names.H_HIDDEN, {})}
            cotangents = {group: _contiguous(leaves) for group, leaves in before.items() if leaves}
            del before
            yield segment, found
            del found

    def _graphs(self, segment: Segment, groups: Groups, dual: bool, last: bool) -> SegmentGraphs:
        found = segment_graphs(segment, groups, self._problem, dual, last)
        if found.reason:
            self.untraced.add(segment.name)
        return found


def _inner(problem: Problem, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {LOSS: problem.inner_loss(params, meta, batch)}


def _outer(problem: Problem, params: Tree, meta: Tree, batch: Batch, hidden: Tree) -> Tree:
    return {LOSS: problem.outer_loss(params, meta, batch)}


def _first_asked(segments: Sequence[Segment], of_params: bool, of_meta: bool) -> int:
    asked = [bool((segment.params and of_params) or (segment.meta and of_meta)) for segment in segments]
    return asked.index(True) if any(asked) else len(segments) - 1


def _inputs(
    segment: Segment, params: Tree, meta: Tree, batch: Batch, direction: Tree | None, hidden: Tree, d_hidden: Tree
) -> Groups:
    groups: Groups = {
        names.PARAMS: _contiguous(segment.params_of(params)),
        names.META: _contiguous({name: meta[name] for name in segment.meta}),
        names.BATCH: {name: batch[name] for name in segment.batch},
        names.HIDDEN: hidden,
    }
    if direction is not None:
        groups |= {names.D_PARAMS: _contiguous(segment.params_of(direction)), names.D_HIDDEN: d_hidden}
    return {group: leaves for group, leaves in groups.items() if leaves}


def _accumulate(total: Tree, names_of: Iterable[tuple[str, str]], found: Tree) -> None:
    """Add a segment's results to `total`, under the names of the tree. Leaves may be shared, so nothing is written in place."""
    for own, name in names_of:
        if own in found:
            leaf = found.pop(own)
            total[name] = total[name] + leaf if name in total else leaf


def _contiguous(leaves: Tree) -> Tree:
    return tree.tree_map(lambda leaf: leaf.detach().contiguous(), leaves)


def _same(leaves: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in leaves]
