"""Meta Neural Kernels on many tasks over few images: every kernel between images is computed once. Wang, Sun & Li 2020, section 3.

Tasks of few-shot classification share their images, and a deep kernel of two images is expensive. So a task is rows of a table of distinct
images, and everything here follows from kernels between tables. With A = Theta(Q, S) T of a task's queries and support, an inner run turns
outputs h into

    h(Q) + A (Y_S - h(S)),

and meta-training moves h in the span of the training images alone: h(x) = Theta(x, U) alpha. The residual of alpha shrinks by the meta
kernel Phi = P Theta(U, U) P', where P has a row per query: 1 at the query, -A at its support.
"""

from __future__ import annotations

from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.dense import Kernels
from metabench.kernels.gram import Gram
from metabench.kernels.meta_kernel import Episode
from metabench.kernels.responses import Response, Time, to_supports


@dataclass(frozen=True)
class Tasks:
    """Tasks of one shape over a table of distinct images.

    Attributes:
        images: shape [u, ...].
        support: rows of the table, shape [tasks, n].
        queries: rows of the table, shape [tasks, m].
        support_labels: shape [tasks, n, outputs].
        query_labels: shape [tasks, m, outputs].
    """

    images: torch.Tensor
    support: torch.Tensor
    queries: torch.Tensor
    support_labels: torch.Tensor
    query_labels: torch.Tensor

    def __post_init__(self) -> None:
        """Raise MetabenchError where shapes do not match, or a row is not in the table."""
        for name, rows, labels in (
            ("support", self.support, self.support_labels),
            ("queries", self.queries, self.query_labels),
        ):
            if rows.dim() != 2 or not rows.numel() or labels.shape[:-1] != rows.shape or len(rows) != len(self.support):
                raise MetabenchError(
                    f"{name} of shape {tuple(rows.shape)} with labels of shape {tuple(labels.shape)}: expected [tasks, points] and "
                    "[tasks, points, outputs], a task and a point or more"
                )
            if int(rows.min()) < 0 or int(rows.max()) >= len(self.images):
                raise MetabenchError(f"{name} name image {int(rows.max())}, and there are {len(self.images)}")

    def episodes(self) -> list[Episode]:
        """Return the tasks one by one, with images of their own, flattened."""
        flat = self.images.flatten(1)
        parts = zip(self.support, self.support_labels, self.queries, self.query_labels, strict=True)
        return [Episode(flat[s], y, flat[q], z) for s, y, q, z in parts]


def within_gram(table: Kernels, tasks: Tasks) -> Kernels:
    """Return the kernels of each task's support and queries, in this order, with its support, shape [tasks, n + m, n].

    They are parts of those of the whole table, shape [u, u].
    """
    points = torch.cat([tasks.support, tasks.queries], 1)
    place = (points.unsqueeze(2), tasks.support.unsqueeze(1))
    return Kernels(table.nngp[place], table.ntk[place])


@dataclass(frozen=True)
class Adaptation:
    """What an inner run makes of outputs, for each of some tasks.

    Attributes:
        tasks: with labels.
        matrix: A = Theta(Q, S) T, shape [tasks, m, n].
    """

    tasks: Tasks
    matrix: torch.Tensor

    @classmethod
    def of(cls, tasks: Tasks, kernels: torch.Tensor, response: Response, ridge: float = 0.0) -> Adaptation:
        """Return the adaptation by a response to kernels as of `within_gram`; a ridge is added to those of supports.

        Raises:
            MetabenchError: as `Response`.
        """
        shots = tasks.support.shape[1]
        inner = kernels[:, :shots] + ridge * torch.eye(shots, dtype=kernels.dtype, device=kernels.device)
        return cls(tasks, kernels[:, shots:] @ to_supports(response, inner, tasks.support_labels))

    def outputs(self, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the adapted outputs at queries, shape [tasks, m, outputs], of those before at the images, shape [u, outputs].

        Without any they begin at zero: kernel regression on the support, which no meta-training precedes.
        """
        if before is None:
            return self.matrix @ self.tasks.support_labels
        return before[self.tasks.queries] + self.matrix @ (self.tasks.support_labels - before[self.tasks.support])

    def moved(self) -> torch.Tensor:
        """Return P, by which outputs at the images move the adapted ones, shape [tasks * m, u]."""
        count, queries, _ = self.matrix.shape
        found = self.matrix.new_zeros(count, queries, len(self.tasks.images))
        found.scatter_add_(2, self.tasks.support.unsqueeze(1).expand_as(self.matrix), -self.matrix)
        found.scatter_add_(2, self.tasks.queries.unsqueeze(2), torch.ones_like(found[..., :1]))
        return found.flatten(0, 1)


def meta_kernel(moved: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return Phi = P Theta(U, U) P' of P [queries, u] and the kernel of the table [u, u], symmetric."""
    found = moved @ table @ moved.mT
    return (found + found.mT) / 2


def learned(adaptation: Adaptation, table: torch.Tensor, outer: Response, ridge: float = 0.0) -> torch.Tensor:
    """Return alpha, shape [u, outputs]: meta-trained outputs at x are Theta(x, U) alpha.

    Args:
        adaptation: of the tasks trained on.
        table: the tangent kernel of their images, shape [u, u].
        outer: of the meta-training to Phi; the outputs at the queries of all tasks are one support to it. `Steps` are on their mean.
        ridge: added to Phi.

    Raises:
        MetabenchError: Phi is singular and the time infinite; or as `Response`.
    """
    moved = adaptation.moved()
    away = (adaptation.tasks.query_labels - adaptation.outputs()).flatten(0, 1)
    phi = meta_kernel(moved, table)
    phi = phi + ridge * torch.eye(len(phi), dtype=phi.dtype, device=phi.device)
    return moved.mT @ (outer(phi) @ away)


@dataclass(frozen=True)
class Grams:
    """All kernels that Meta Neural Kernels need; labels, times and ridges may change without computing them anew.

    Attributes:
        trained: of the images trained on, shape [u, u].
        across: of the test's images with these, shape [v, u]; None where they were not asked for.
        tested: of each test task as `within_gram`, shape [tests, n + m, n].
    """

    trained: Kernels
    across: Kernels | None
    tested: Kernels

    @classmethod
    def of(cls, gram: Gram, train: Tasks, test: Tasks, across: bool = True) -> Grams:
        """Return the kernels of some tasks trained on and some of the test; raise MetabenchError as `Gram`."""
        points = torch.cat([test.support, test.queries], 1)
        return cls(
            gram.kernels(train.images),
            gram.kernels(test.images, train.images) if across else None,
            gram.among(test.images, points, test.support),
        )


def meta_neural_kernel(
    given: Grams, train: Tasks, test: Tasks, tau: float, time: float, ridge: float = 0.0
) -> torch.Tensor:
    """Return F_t at the queries of the test, shape [tests, m, outputs]: MAML by gradient flow, at infinite width.

    Args:
        given: the kernels of these tasks.
        train: the tasks trained on.
        test: the tasks of the test, of any other shape.
        tau: time of the inner run on the sum over a support of (f - y)^2 / 2; may be infinite.
        time: of meta-training on the mean over all queries, as in `Flow.after`; may be infinite, and 0 is without meta-training.
        ridge: added to the kernels of supports and to Phi, as a part of the mean of Theta(x, x).

    Raises:
        MetabenchError: a time or the ridge is below zero; or a time is infinite, the ridge zero and a kernel singular.
    """
    if not ridge >= 0:
        raise MetabenchError(f"a ridge of {ridge:g}: expected 0 or more")
    if not time >= 0:
        raise MetabenchError(f"a meta-training for a time of {time:g}: expected 0 or more")
    added, inner = ridge * float(given.trained.ntk.diagonal().mean()), Time(tau)
    trained = Adaptation.of(train, within_gram(given.trained, train).ntk, inner, added)
    adapted = Adaptation.of(test, given.tested.ntk, inner, added)
    try:
        alpha = learned(trained, given.trained.ntk, Time(time / train.queries.numel()), added)
    except MetabenchError as error:
        raise MetabenchError(
            f"the meta kernel of {len(train.queries)} tasks has no inverse: two of their queries, or more, adapt alike; a ridge above 0 or "
            f"a finite time would do ({error})"
        ) from error
    assert given.across is not None
    return adapted.outputs(given.across.ntk @ alpha)
