"""The meta kernel of many tasks at once: the same numbers as block by block, from one Gram matrix of all their inputs.

With R the matrix that takes outputs at all inputs to those adapted at queries, one block [-A, 1] per task, Phi = R Theta S', where S has
[-B, kept]. Hundreds of tasks then cost one kernel and two products, and a kernel that is expensive to begin, as of a finite network, is
called once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.dense import Kernels
from metabench.kernels.meta_kernel import Episode, MetaKernel
from metabench.kernels.responses import Response


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


def joint(of: MetaKernel, tasks: Sequence[Episode]) -> Joint:
    """Return the meta kernel of tasks with all that goes with it.

    Raises:
        MetabenchError: there is no task, or as the kernel and the response.
    """
    if not tasks:
        raise MetabenchError("a meta kernel needs a task or more")
    inputs = torch.cat([part for one in tasks for part in (one.support, one.queries)])
    kernels = of.kernel(inputs, inputs)
    place, supports, queries = 0, [], []
    for one in tasks:
        supports.append(torch.arange(place, place + len(one.support)))
        queries.append(torch.arange(place + len(one.support), place + len(one.support) + len(one.queries)))
        place += len(one.support) + len(one.queries)
    adapting = [_outer(kernels, a, b, of.response, of.head) for a, b in zip(supports, queries, strict=True)]
    left = right = _adaptation(adapting, supports, queries, inputs)
    if of.estimated is not None:
        estimated = [_outer(kernels, a, b, of.estimated, of.head) for a, b in zip(supports, queries, strict=True)]
        right = _adaptation(estimated, supports, queries, inputs, of.estimated.kept)
    queried = torch.cat(queries)
    return Joint(
        left @ kernels.ntk @ right.mT,
        torch.cat([a @ one.support_labels for a, one in zip(adapting, tasks, strict=True)]),
        torch.cat([one.query_labels for one in tasks]),
        torch.cat([torch.full((len(one.queries),), i) for i, one in enumerate(tasks)]),
        kernels.ntk[queried][:, queried],
    )


def _outer(
    kernels: Kernels, support: torch.Tensor, queries: torch.Tensor, response: Response, head: bool
) -> torch.Tensor:
    """Return A = K(X, X') T of one task, shape [m, n]."""
    gram = kernels.nngp if head else kernels.ntk
    return gram[queries][:, support] @ response(gram[support][:, support])


def _adaptation(
    adapting: Sequence[torch.Tensor],
    supports: Sequence[torch.Tensor],
    queries: Sequence[torch.Tensor],
    inputs: torch.Tensor,
    kept: float = 1.0,
) -> torch.Tensor:
    """Return the matrix from outputs at all inputs to adapted ones at queries, shape [queries, inputs]."""
    found = torch.zeros((sum(map(len, queries)), len(inputs)), dtype=adapting[0].dtype, device=adapting[0].device)
    first = 0
    for a, support, query in zip(adapting, supports, queries, strict=True):
        rows = torch.arange(first, first + len(query)).unsqueeze(1)
        found[rows, support] = -a
        found[rows[:, 0], query] = kept
        first += len(query)
    return found
