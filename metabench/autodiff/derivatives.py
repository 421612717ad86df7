"""The derivatives of a problem's two losses that a backward sweep needs, in one of two ways: recorded by autograd, or on flat graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from metabench.autodiff.gradients import OuterGradient, gradients, outer_gradient
from metabench.autodiff.traced.chain import Chain
from metabench.autodiff.traced.execution import Execution
from metabench.core import tree
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import MetaRole, Problem
from metabench.core.segments import LOSS, Segment
from metabench.core.types import Batch, Tree


class Derivatives(Protocol):
    """First-order gradients of both losses, and second-order products of the inner one."""

    def inner(self, params: Tree, meta: Tree, batch: Batch) -> Tree:
        """Return df/dw."""

    def outer(self, params: Tree, meta: Tree, batch: Batch) -> OuterGradient:
        """Return F, dF/dw and the direct dF/dl."""

    def products(
        self, params: Tree, meta: Tree, batch: Batch, direction: Tree, *, into: Tree | None, mixed: bool
    ) -> tuple[Tree, Tree]:
        """Return (into + (d2f/dw2) v, (d2f/dl dw) v) with v = `direction`.

        Without `into` there is no Hessian product, without `mixed` no mixed one: an empty tree takes its place. `into` is consumed:
        the caller must not use it afterwards.
        """


class Recorded:
    """Derivatives recorded by autograd: products are reverse over reverse.

    With `block_remat` a segment's activations are recomputed, not kept (torch.utils.checkpoint), if the problem offers segments.
    """

    def __init__(self, problem: Problem, block_remat: bool = False) -> None:
        self._problem = problem
        self._inner_segments = tuple(problem.inner_segments()) if block_remat else ()
        self._outer_segments = tuple(problem.outer_segments()) if block_remat else ()

    def inner(self, params: Tree, meta: Tree, batch: Batch) -> Tree:
        """Return df/dw."""
        params = tree.leaves_for_grad(params)
        with torch.enable_grad():
            (gradient,) = gradients(self._inner_loss(params, tree.detach(meta), batch), [params])
        return gradient

    def outer(self, params: Tree, meta: Tree, batch: Batch) -> OuterGradient:
        """Return F, dF/dw and the direct dF/dl."""
        if not self._outer_segments:
            return outer_gradient(self._problem, params, meta, batch)
        params, meta = tree.leaves_for_grad(params), tree.leaves_for_grad(meta)
        with torch.enable_grad():
            loss = _checkpointed(self._outer_segments, params, meta, batch)
            d_params, d_meta = gradients(loss, [params, meta])
        return OuterGradient(float(loss.detach()), d_params, d_meta)

    def products(
        self, params: Tree, meta: Tree, batch: Batch, direction: Tree, *, into: Tree | None, mixed: bool
    ) -> tuple[Tree, Tree]:
        """Return the products by differentiating the inner product <df/dw, v>."""
        params = tree.leaves_for_grad(params)
        meta = tree.leaves_for_grad(meta) if mixed else tree.detach(meta)
        with torch.enable_grad():
            (slope,) = gradients(self._inner_loss(params, meta, batch), [params], create_graph=True)
            asked = [*([params] if into is not None else []), *([meta] if mixed else [])]
            found = gradients(list(slope.values()), asked, list(direction.values()))
        hessian = {} if into is None else tree.add(into, found[0])
        return hessian, found[-1] if mixed else {}

    def _inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        if self._inner_segments:
            return _checkpointed(self._inner_segments, params, meta, batch)
        return self._problem.inner_loss(params, meta, batch)


class OnFlatGraphs:
    """Derivatives on flat graphs, segment by segment where the problem offers segments: products are forward over reverse."""

    def __init__(self, problem: Problem, block_remat: bool = True, execution: Execution | None = None) -> None:
        self._inner = Chain(problem, "inner", block_remat, execution)
        self._outer = Chain(problem, "outer", block_remat, execution)
        self._direct = MetaRole.OUTER_LOSS in problem.roles

    def inner(self, params: Tree, meta: Tree, batch: Batch) -> Tree:
        """Return df/dw."""
        return self._inner.gradient(params, meta, batch).params

    def outer(self, params: Tree, meta: Tree, batch: Batch) -> OuterGradient:
        """Return F, dF/dw and the direct dF/dl."""
        found = self._outer.gradient(params, meta, batch, of_meta=self._direct)
        return OuterGradient(float(found.loss), found.params, found.meta if self._direct else tree.zeros_like(meta))

    def products(
        self, params: Tree, meta: Tree, batch: Batch, direction: Tree, *, into: Tree | None, mixed: bool
    ) -> tuple[Tree, Tree]:
        """Return the products by one JVP of the backward pass along (v, 0)."""
        return self._inner.products(params, meta, batch, direction, into=into, mixed=mixed)

    @property
    def untraced(self) -> int:
        """How many segments of the two losses could not be traced."""
        return len(self._inner.untraced) + len(self._outer.untraced)


def by_segments(problem: Problem, params: Tree, meta: Tree, batch: Batch) -> OnFlatGraphs | None:
    """Return derivatives by segments, for methods that take them where they save memory.

    None where the problem offers no segments, or one has an operation without the derivatives that mixed mode needs.
    """
    if not problem.inner_segments():
        return None
    try:
        Chain(problem, "inner", block_remat=True).check(params, meta, batch)
    except Unsupported:
        return None
    return OnFlatGraphs(problem)


def _checkpointed(segments: Sequence[Segment], params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
    """Return the loss of a chain of which nothing is kept but what segments hand on."""
    from torch.utils.checkpoint import checkpoint

    hidden: Tree = {}
    for segment in segments[:-1]:
        hidden = checkpoint(segment, params, meta, batch, hidden, use_reentrant=False, preserve_rng_state=False)
    return segments[-1](params, meta, batch, hidden)[LOSS]
