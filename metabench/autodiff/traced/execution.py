"""Execution of flat graphs: plain, compiled by torch.compile, or captured as CUDA graphs.

Compiled and captured graphs are checked against the plain ones: the first call of each runs both, which must agree to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from metabench.autodiff.traced.flat_graph import FlatGraph, Groups
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch

Run = Callable[[Sequence[Any]], Sequence[Any]]

_made: weakref.WeakKeyDictionary[FlatGraph, dict[tuple[bool, bool], Run]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Execution:
    """Run flat graphs: compiled with `compile`, captured with `cuda_graphs`, otherwise as they are."""

    compile: bool = False
    cuda_graphs: bool = False

    def __call__(self, piece: Any, groups: Groups) -> Groups:
        """Return what the graph gives for `groups`, a dict that is emptied.

        Raises:
            MetabenchError: a compiled or captured graph does not agree with the plain one.
        """
        if not isinstance(piece, FlatGraph) or not (self.compile or self.cuda_graphs):
            found: Groups = piece(groups)
            return found
        given = [groups[group][name] for group, name in piece.inputs]
        runs = _made.setdefault(piece, {})
        key = (self.compile, self.cuda_graphs)
        if key not in runs:
            runs[key] = self._made(piece, given)
        groups.clear()
        with torch.no_grad():
            return piece.named(runs[key](given))

    def _made(self, piece: FlatGraph, given: list[Any]) -> Run:
        run: Run = piece.plain
        if self.compile:
            run = _compiled(piece)
        if self.cuda_graphs:
            run = _captured(run, given)
        with torch.no_grad():
            _check(run(given), piece.plain(given), "compiled" if self.compile else "captured")
        return run


def _compiled(piece: FlatGraph) -> Run:
    compiled = torch.compile(piece.functional, fullgraph=True, dynamic=False)
    return lambda given: compiled(*given)


def _captured(run: Run, given: list[Any]) -> Run:
    """Return a run that replays a CUDA graph: inputs are copied into its own memory, and outputs out of it."""
    own = [leaf.clone() for leaf in given]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries choose their kernels at first calls, which cannot be captured
            run(own)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(own)

    def replay(values: Sequence[Any]) -> Sequence[Any]:
        for mine, value in zip(own, values, strict=True):
            mine.copy_(value)
        graph.replay()
        return [result.clone() for result in results]

    return replay


def _check(found: Sequence[Any], expected: Sequence[Any], how: str) -> None:
    """Raise MetabenchError if two lists of outputs differ by more than rounding with reordered operations.

    They must be non-finite in the same places: a run may have diverged.
    """
    for one, other in zip(found, expected, strict=True):
        if not other.is_floating_point():
            one, other = one.double(), other.double()
        finite = torch.isfinite(other)
        if not torch.equal(torch.isfinite(one), finite):
            raise MetabenchError(f"a {how} graph is not finite where the plain one is, or the other way; {_WITHOUT}")
        one, other = one[finite], other[finite]
        scale = float(other.abs().max()) if other.numel() else 0.0
        gap = float((one - other).abs().max()) if other.numel() else 0.0
        if gap > 1e3 * torch.finfo(other.dtype).eps * scale:
            raise MetabenchError(
                f"a {how} graph does not give what the plain one does: a difference of {gap:.1e} where values reach {scale:.1e}; {_WITHOUT}"
            )


_WITHOUT = "run without the option"
