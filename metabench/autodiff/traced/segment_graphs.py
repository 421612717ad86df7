"""The derivatives of one segment as flat graphs: its value, its backward pass, and both with their tangents.

With hidden' = f(p, l, b, hidden), the backward pass is (p, l, b, hidden, g) -> g^T (df/dp, df/dl, df/dhidden); its tangent along
(dp, 0, dhidden, dg) is the segment's share of (d2f/dw2) v and (d2f/dl dw) v: forward over reverse. Kemaev et al. 2025, section 3.
Traces are made on first use, once per function and shapes, and kept for the process: equal blocks share them.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
import types
import warnings
from collections.abc import Callable, Hashable
from typing import Any

from metabench.autodiff.dual import stopping
from metabench.autodiff.traced.flat_graph import SAVED, Function, Groups, Trace, on_fakes, specification, unseen
from metabench.autodiff.traced.missing_derivatives import missing_derivative
from metabench.core import tree
from metabench.core.errors import TimeLimit, Unsupported
from metabench.core.lazy import torch
from metabench.core.segments import LOSS, Segment
from metabench.core.types import Tree

PARAMS, META, BATCH, HIDDEN, COTANGENT = "params", "meta", "batch", "hidden", "cotangent"
D_PARAMS, D_HIDDEN, D_COTANGENT = "d_params", "d_hidden", "d_cotangent"
OUT, D_OUT = "out", "d_out"
G_PARAMS, G_META, G_HIDDEN = "g_params", "g_meta", "g_hidden"
H_PARAMS, H_META, H_HIDDEN = "h_params", "h_meta", "h_hidden"
"""Groups: inputs, their tangents, the segment's value, the backward pass, and the backward pass's tangent."""

_PRIMALS = (PARAMS, META, BATCH, HIDDEN)

Piece = Callable[[Groups], Groups]

_KEPT = 512
"""Most traces kept; the least recently used is dropped first."""


class SegmentGraphs:
    """The flat graphs of one segment function for inputs of one kind. With `dual`, tangents come along; `last` gives the loss."""

    def __init__(self, segment: Segment, inputs: Groups, dual: bool, last: bool) -> None:
        self._segment, self._dual = segment, dual
        self._function = _joint_dual(segment, last) if dual else _joint(segment, last)
        self._trace: Trace | None = None
        self._pieces: dict[Hashable, Any] = {}
        self.reason = ""
        """Why the segment could not be traced; empty if it was."""
        primals = {group: leaves for group, leaves in inputs.items() if group in _PRIMALS}
        self.like: Tree = {}
        """Fake tensors like those that the segment hands on; none for a last segment."""
        self._value = _value_dual(segment) if dual else _value_alone(segment)
        try:
            with torch.no_grad(), unseen():
                # Once for real: a function that fills a cache at its first call must not fill it with tensors of a trace.
                _value(segment, primals)
            self.like = {} if last else on_fakes(lambda fakes: _like(_value(segment, fakes)), primals)
            self._trace = Trace(self._function, _with_tangents(primals, self.like, dual))
        except TimeLimit:
            raise
        # Whatever torch says: without a trace the function itself is asked, and may say it better.
        except Exception as error:
            self._refuse(error, primals)
            self.reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]
            warnings.warn(
                f"{segment.name}: not traced, its derivatives are taken by autograd instead: about twice the memory of a flat graph, and "
                f"Python between the operations ({self.reason})",
                stacklevel=2,
            )

    @property
    def ahead(self) -> Piece:
        """(inputs) -> the segment's value, and its tangent."""
        return self._part((OUT, D_OUT) if self._dual else (OUT,))

    def back(self, params: bool, meta: bool) -> Piece:
        """(inputs, cotangents) -> the backward pass, or its tangent and the cotangents of its inputs; the value is recomputed."""
        return self._part(self._wanted(params, meta))

    def through(self, params: bool, meta: bool) -> Piece:
        """(inputs) -> value and backward pass of a last segment at once: its value is the loss."""
        return self._part((OUT, *self._wanted(params, meta)))

    def halves(self, params: bool, meta: bool) -> tuple[Piece, Piece]:
        """Return (ahead, back) where `back` reads what `ahead` saved, instead of recomputing the value."""
        key = ("halves", params, meta)
        if key not in self._pieces:
            if self._trace is None:
                self._pieces[key] = (self.ahead, self.back(params, meta))
            else:
                early = (OUT, D_OUT) if self._dual else (OUT,)
                outputs = (*early, *self._wanted(params, meta))
                self._pieces[key] = self._trace.split(outputs, early, (COTANGENT, D_COTANGENT))
        found: tuple[Piece, Piece] = self._pieces[key]
        return found

    @functools.cached_property
    def multiplies(self) -> bool:
        """Whether recomputing the segment's value is costly (a matrix product or a convolution); a table look-up is not."""
        return self._trace is None or self._trace.part((OUT,)).multiplies

    @property
    def kept_bytes(self) -> int:
        """Bytes that the segment's backward pass reads, besides its inputs; 0 if the segment could not be traced."""
        if self._trace is None:
            return 0
        early = (OUT,)
        ahead, _ = self._trace.split((*early, *self._wanted(True, True)), early, (COTANGENT,))
        return ahead.output_bytes(SAVED)

    def _refuse(self, error: Exception, groups: Groups) -> None:
        """Raise Unsupported where an operation of the segment lacks a derivative."""
        if words := missing_derivative(error, lambda: _value(self._segment, groups), self._segment.name):
            raise Unsupported(words) from error

    def _wanted(self, params: bool, meta: bool) -> tuple[str, ...]:
        if self._dual:
            return (*((H_PARAMS,) if params else ()), *((H_META,) if meta else ()), G_HIDDEN, H_HIDDEN)
        return (*((G_PARAMS,) if params else ()), *((G_META,) if meta else ()), G_HIDDEN)

    def _part(self, outputs: tuple[str, ...]) -> Piece:
        if outputs not in self._pieces:
            if self._trace is None:
                # The joint function needs cotangents, which are not known on the way ahead.
                function = self._value if set(outputs) <= {OUT, D_OUT} else self._function

                def untraced(groups: Groups) -> Groups:
                    try:
                        with torch.enable_grad():
                            found = function(groups)
                    except RuntimeError as error:
                        self._refuse(error, groups)
                        raise
                    groups.clear()
                    return {group: tree.detach(leaves) for group, leaves in found.items() if group in outputs}

                self._pieces[outputs] = untraced
            else:
                self._pieces[outputs] = self._trace.part(outputs)
        piece: Piece = self._pieces[outputs]
        return piece


def _value(segment: Segment, groups: Groups) -> Tree:
    """Return the segment's value, without derivatives."""
    return segment.function(*(groups.get(group, {}) for group in (PARAMS, META, BATCH, HIDDEN)))


def _like(out: Tree) -> Tree:
    return tree.tree_map(lambda leaf: leaf.detach().contiguous(), out)


def _with_tangents(primals: Groups, cotangent: Tree, dual: bool) -> Groups:
    """Return the primals and the other inputs of the joint function: cotangents like the segment's value, and the tangents of all."""
    groups = {**primals, COTANGENT: cotangent} if cotangent else dict(primals)
    if dual:
        for group, tangents in ((PARAMS, D_PARAMS), (HIDDEN, D_HIDDEN), (COTANGENT, D_COTANGENT)):
            if group in groups:
                groups[tangents] = groups[group]
    return groups


def _joint(segment: Segment, last: bool) -> Function:
    """Return the function from a segment's inputs and its cotangent to its value and its backward pass."""

    def joint(groups: Groups) -> Groups:
        params, meta, batch, hidden = (groups.get(group, {}) for group in _PRIMALS)
        out, pull = torch.func.vjp(lambda p, m, h: segment.function(p, m, batch, h), params, meta, hidden)
        g_params, g_meta, g_hidden = pull(_of_loss(out) if last else groups[COTANGENT])
        return {OUT: out, G_PARAMS: g_params, G_META: g_meta, G_HIDDEN: g_hidden}

    return joint


def _joint_dual(segment: Segment, last: bool) -> Function:
    """Return the function from a segment's inputs, its cotangent and their tangents to its value, its backward pass and their tangents."""

    function = stopping(segment.function)

    def joint(groups: Groups) -> Groups:
        meta, batch = groups.get(META, {}), groups.get(BATCH, {})

        def both(params: Tree, hidden: Tree, cotangent: Tree) -> tuple[Tree, Tree, Tree, Tree]:
            out, pull = torch.func.vjp(lambda p, m, h: function(p, m, batch, h), params, meta, hidden)
            return (out, *pull(_of_loss(out) if last else cotangent))

        primals = tuple(groups.get(group, {}) for group in (PARAMS, HIDDEN, COTANGENT))
        tangents = tuple(groups.get(group, {}) for group in (D_PARAMS, D_HIDDEN, D_COTANGENT))
        (out, _, _, g_hidden), (d_out, h_params, h_meta, h_hidden) = torch.func.jvp(both, primals, tangents)  # type: ignore[misc]
        return {
            OUT: out,
            D_OUT: _typed(d_out, out),
            G_HIDDEN: g_hidden,
            H_PARAMS: _typed(h_params, primals[0]),
            H_META: _typed(h_meta, meta),
            H_HIDDEN: _typed(h_hidden, primals[1]),
        }

    return joint


def _value_alone(segment: Segment) -> Function:
    return lambda groups: {OUT: _value(segment, groups)}


def _value_dual(segment: Segment) -> Function:
    """Return the function from a segment's inputs and their tangents to its value and its tangent."""

    function = stopping(segment.function)

    def dual(groups: Groups) -> Groups:
        meta, batch = groups.get(META, {}), groups.get(BATCH, {})
        primals = tuple(groups.get(group, {}) for group in (PARAMS, HIDDEN))
        tangents = tuple(groups.get(group, {}) for group in (D_PARAMS, D_HIDDEN))
        if not any(primals):
            out = _value(segment, groups)
            return {OUT: out, D_OUT: tree.zeros_like(out)}
        out, d_out = torch.func.jvp(lambda p, h: function(p, meta, batch, h), primals, tangents)
        return {OUT: out, D_OUT: _typed(d_out, out)}

    return dual


def _typed(tangents: Tree, primals: Tree) -> Tree:
    """Return tangents in the dtypes of their primals: torch gives a float64 one for a scalar times a Python number."""
    return {name: leaf.to(primals[name].dtype) for name, leaf in tangents.items()}


def _of_loss(out: Tree) -> Tree:
    """Return the cotangent of the last segment's value: one."""
    return {LOSS: torch.ones_like(out[LOSS])}


_cache: collections.OrderedDict[Hashable, SegmentGraphs] = collections.OrderedDict()


def segment_graphs(segment: Segment, inputs: Groups, owner: Any, dual: bool, last: bool) -> SegmentGraphs:
    """Return the flat graphs of `segment` for inputs such as these; `owner` keeps them where the function is a method of its own.

    Raises:
        Unsupported: an operation of the segment lacks a required derivative; the message names it and its place.
    """
    kept, function = _home(segment, owner)
    key = (function, dual, last, specification({group: inputs.get(group, {}) for group in _PRIMALS}))
    if key not in kept:
        kept[key] = SegmentGraphs(segment, inputs, dual, last)
        if len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    found: SegmentGraphs = kept[key]
    return found


def _home(segment: Segment, owner: Any) -> tuple[Any, Hashable]:
    """Return where traces of the segment are kept, and its function as a key there.

    Problems share the traces of named functions and of frozen dataclasses. Anything else (a method of the problem, a closure) may capture
    a problem's data: its traces last as long as the problem.
    """
    function: Any = segment.function
    by_name = isinstance(function, types.FunctionType) and "<locals>" not in function.__qualname__
    by_value = dataclasses.is_dataclass(function) and type(function).__hash__ is not None
    if by_value or (by_name and function.__name__ != "<lambda>"):
        return _cache, function
    return own_traces(owner), Itself(getattr(function, "__func__", function))


def own_traces(owner: Any) -> Any:
    """Return where a problem keeps traces of its own; shallow copies made afterwards share them."""
    return vars(owner).setdefault("_segment_graphs", collections.OrderedDict())


class Itself:
    """A key equal only for the same object, which it keeps alive: a bare id could be reused."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)
