"""The meta kernel: what a meta-update at some tasks does to the adapted outputs of others. Wang, Sun & Li 2020, theorem 3.

With tangent features J at the queries and J' at the support of a task, the inner run adapts the outputs to (J - A J') w + ..., where
A = Theta(X, X') T. So a step of MAML along its gradient changes the adapted outputs of task i by

    Phi_ij = (J_i - A_i J'_i)(J_j - A_j J'_j)'.

A method that estimates the derivative of the adapted parameters otherwise steps along (q J_j - B_j J'_j)' with a B of its own, and a q
that is 1 unless a series is cut short: B is zero for first-order MAML, a polynomial for a truncated Neumann series. Then the kernel is not
symmetric. In ANIL the head alone adapts, so T and A are of the NNGP, the kernel of the head. Reptile is none of these: it regresses on the
supports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.dense import Kernels
from metabench.kernels.flow import Flow
from metabench.kernels.responses import Response

Kernel: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], Kernels]"
"""From inputs [n, dimensions] and [m, dimensions] to the kernels of all pairs."""


@dataclass(frozen=True)
class Episode:
    """A task: support [n, dimensions] with labels [n, outputs], queries [m, dimensions] with labels [m, outputs]."""

    support: torch.Tensor
    support_labels: torch.Tensor
    queries: torch.Tensor
    query_labels: torch.Tensor


@dataclass(frozen=True)
class MetaKernel:
    """The meta kernel of a network, an inner run and a method.

    Attributes:
        kernel: of the network.
        response: of the inner run.
        estimated: what the method takes the response to be where it differentiates; None: what it is, as MAML does.
        head: whether the last layer alone adapts, as in ANIL.
    """

    kernel: Kernel
    response: Response
    estimated: Response | None = None
    head: bool = False

    def adapted(self, episodes: Sequence[Episode]) -> torch.Tensor:
        """Return the adapted outputs at all queries of networks whose outputs begin at zero, shape [queries, outputs]: A Y'."""
        return torch.cat([self._outer(one, self.response) @ one.support_labels for one in episodes])

    def between(self, rows: Sequence[Episode], columns: Sequence[Episode]) -> torch.Tensor:
        """Return Phi of all queries of some tasks, those of others in its columns, shape [queries, queries].

        Raises:
            MetabenchError: there is no task on one side, or a response cannot be.
        """
        if not rows or not columns:
            raise MetabenchError("a meta kernel needs a task or more on either side")
        estimated = self.response if self.estimated is None else self.estimated
        left = [self._outer(one, self.response) for one in rows]
        right = [self._outer(one, estimated) for one in columns]
        return torch.cat(
            [
                torch.cat(
                    [self._block(one, a, other, b, estimated.kept) for other, b in zip(columns, right, strict=True)],
                    dim=1,
                )
                for one, a in zip(rows, left, strict=True)
            ]
        )

    def _outer(self, one: Episode, response: Response) -> torch.Tensor:
        """Return A = K(X, X') T, shape [m, n]."""
        inner, outer = self.kernel(one.support, one.support), self.kernel(one.queries, one.support)
        return outer.nngp @ response(inner.nngp) if self.head else outer.ntk @ response(inner.ntk)

    def _block(self, one: Episode, a: torch.Tensor, other: Episode, b: torch.Tensor, kept: float) -> torch.Tensor:
        """Return (J - A J')(kept J - B J')' for the queries of two tasks."""

        def theta(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
            return self.kernel(rows, columns).ntk

        direct = theta(one.queries, other.queries) - a @ theta(one.support, other.queries)
        return kept * direct - (theta(one.queries, other.support) - a @ theta(one.support, other.support)) @ b.mT


@dataclass(frozen=True)
class Reptile:
    """What Reptile becomes: its step w_0 - w_K is J'^T T (f(X') - Y'), so it regresses on the supports, weighted by T. Nichol et al. 2018.

    Attributes:
        kernel: of the network.
        response: of the inner run.
    """

    kernel: Kernel
    response: Response

    def flow(self, episodes: Sequence[Episode]) -> Flow:
        """Return the flow of the outputs at all supports, whose rate is that of SGD on the mean over tasks of w_0 - w_K."""
        weights = torch.block_diag(*(self.response(self.kernel(one.support, one.support).ntk) for one in episodes))
        points = torch.cat([one.support for one in episodes])
        share = len(points) / len(episodes)
        return Flow(
            share * self.kernel(points, points).ntk @ weights, -torch.cat([one.support_labels for one in episodes])
        )

    def adapted(self, others: Sequence[Episode], episodes: Sequence[Episode], change: torch.Tensor) -> torch.Tensor:
        """Return the adapted outputs at the queries of `others` after a change of the flow of `episodes`, shape [queries, outputs]."""
        points = torch.cat([one.support for one in episodes])
        weights = torch.block_diag(*(self.response(self.kernel(one.support, one.support).ntk) for one in episodes))
        moved = len(points) / len(episodes) * weights @ change

        def unadapted(inputs: torch.Tensor) -> torch.Tensor:
            return self.kernel(inputs, points).ntk @ moved

        found = []
        for one in others:
            answer = self.kernel(one.queries, one.support).ntk @ self.response(
                self.kernel(one.support, one.support).ntk
            )
            found.append(unadapted(one.queries) + answer @ (one.support_labels - unadapted(one.support)))
        return torch.cat(found)


def labels(episodes: Sequence[Episode]) -> torch.Tensor:
    """Return the labels of all queries, shape [queries, outputs]."""
    return torch.cat([one.query_labels for one in episodes])
