"""The meta kernel: what a meta-update at some tasks does to the adapted outputs of others. Wang, Sun & Li 2020, theorem 3.

With tangent features J at the queries and J' at the support of a task, the inner run adapts the outputs to (J - A J') w + ..., where
A = Theta(X, X') T. So a step of MAML along its gradient changes the adapted outputs of task i by

    Phi_ij = (J_i - A_i J'_i)(J_j - A_j J'_j)'.

A method that estimates the derivative of the adapted parameters otherwise steps along (q J_j - B_j J'_j)' with a B of its own, and a q
that is 1 unless a series is cut short: B is zero for first-order MAML, a polynomial for a truncated Neumann series. Then the kernel is not
symmetric. In ANIL the head alone adapts, so T and A are of the NNGP, the kernel of the head. Reptile is none of these: it regresses on the
supports.

All tasks are computed at once. With R the matrix that takes outputs at all inputs to those adapted at queries, one block [-A, 1] per task,
Phi = R Theta S', where S has [-B, q]. Hundreds of tasks then cost one kernel and two products, and a kernel that is expensive to begin, as
of a finite network, is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.dense import Kernels
from metabench.kernels.flow import Flow
from metabench.kernels.responses import Response, to_supports

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
class Joint:
    """Of all queries of some tasks, in their order.

    Attributes:
        phi: the meta kernel, shape [queries, queries].
        adapted: what adaptation alone gives, shape [queries, outputs].
        labels: shape [queries, outputs].
        task: to which task each query belongs, shape [queries].
        tangent: the network's own kernel of the queries, shape [queries, queries].
    """

    phi: torch.Tensor
    adapted: torch.Tensor
    labels: torch.Tensor
    task: torch.Tensor
    tangent: torch.Tensor

    def first(self, tasks: int) -> torch.Tensor:
        """Return which queries are of the first tasks, shape [queries], of bool."""
        return self.task < tasks


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

    def joint(self, tasks: Sequence[Episode]) -> Joint:
        """Return the meta kernel of tasks with all that goes with it.

        Raises:
            MetabenchError: there is no task, or as the kernel and the response; tasks are named by their place, from 0.
        """
        if not tasks:
            raise MetabenchError("a meta kernel needs a task or more")
        inputs = torch.cat([part for one in tasks for part in (one.support, one.queries)])
        kernels = self.kernel(inputs, inputs)
        left = right = self._adaptation(kernels, tasks, self.response)
        if self.estimated is not None:
            right = self._adaptation(kernels, tasks, self.estimated)
        met = [part for one in tasks for part in (-one.support_labels, torch.zeros_like(one.query_labels))]
        sizes = torch.tensor([size for one in tasks for size in (len(one.support), len(one.queries))])
        queried = torch.tensor([False, True]).repeat(len(tasks)).repeat_interleave(sizes)
        return Joint(
            left @ kernels.ntk @ right.mT,
            left @ torch.cat(met),
            labels(tasks),
            torch.arange(len(tasks)).repeat_interleave(sizes[1::2]),
            kernels.ntk[queried][:, queried],
        )

    def adapted(self, episodes: Sequence[Episode]) -> torch.Tensor:
        """Return the adapted outputs at all queries of networks whose outputs begin at zero, shape [queries, outputs]: A Y'."""
        return self.joint(episodes).adapted

    def between(self, rows: Sequence[Episode], columns: Sequence[Episode]) -> torch.Tensor:
        """Return Phi of all queries of some tasks, those of others in its columns, shape [queries, queries].

        Raises:
            MetabenchError: there is no task on one side, or as `joint` of both.
        """
        if not rows or not columns:
            raise MetabenchError("a meta kernel needs a task or more on either side")
        if rows is columns:
            return self.joint(rows).phi
        found = self.joint([*rows, *columns])
        first = found.first(len(rows))
        return found.phi[first][:, ~first]

    def _adaptation(self, kernels: Kernels, tasks: Sequence[Episode], response: Response) -> torch.Tensor:
        """Return the matrix from outputs at all inputs to adapted ones at queries, shape [queries, inputs]: of each task [-A, kept]."""
        gram, place, blocks = kernels.nngp if self.head else kernels.ntk, 0, []
        for number, one in enumerate(tasks):
            n, end = len(one.support), place + len(one.support) + len(one.queries)
            own = gram[place:end, place : place + n]
            a = own[n:] @ to_supports(response, own[:n], one.support_labels, number)
            blocks.append(torch.cat([-a, response.kept * torch.eye(len(a)).to(a)], 1))
            place = end
        return torch.block_diag(*blocks)


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
        """Return the flow of the outputs at all supports, whose rate is that of SGD on the mean over tasks of w_0 - w_K.

        Raises:
            MetabenchError: as the response; tasks are named by their place, from 0.
        """
        points = torch.cat([one.support for one in episodes])
        share, weights = len(points) / len(episodes), torch.block_diag(*self._weights(episodes))
        return Flow(
            share * self.kernel(points, points).ntk @ weights, -torch.cat([one.support_labels for one in episodes])
        )

    def adapted(self, others: Sequence[Episode], episodes: Sequence[Episode], change: torch.Tensor) -> torch.Tensor:
        """Return the adapted outputs at the queries of `others` after a change of the flow of `episodes`, shape [queries, outputs].

        Raises:
            MetabenchError: as `flow`.
        """
        points = torch.cat([one.support for one in episodes])
        moved = len(points) / len(episodes) * torch.block_diag(*self._weights(episodes)) @ change

        def unadapted(inputs: torch.Tensor) -> torch.Tensor:
            return self.kernel(inputs, points).ntk @ moved

        found = []
        for one, weights in zip(others, self._weights(others), strict=True):
            answer = self.kernel(one.queries, one.support).ntk @ weights
            found.append(unadapted(one.queries) + answer @ (one.support_labels - unadapted(one.support)))
        return torch.cat(found)

    def _weights(self, episodes: Sequence[Episode]) -> list[torch.Tensor]:
        """Return T of each support."""
        return [
            to_supports(self.response, self.kernel(one.support, one.support).ntk, one.support_labels, number)
            for number, one in enumerate(episodes)
        ]


def labels(episodes: Sequence[Episode]) -> torch.Tensor:
    """Return the labels of all queries, shape [queries, outputs]."""
    return torch.cat([one.query_labels for one in episodes])
