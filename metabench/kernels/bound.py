"""How far the test loss of a meta-trained network of infinite width can be from its training loss, proved; and the paper's complexity.

**Setting.** N tasks are drawn independently from one distribution; task i has a support and n queries, which may depend on one another in
any way. Meta-training from zero outputs gives F = G + h, where G is what adaptation alone gives and h = Phi(., train) c lies in the space
of functions of (task, query) whose kernel is Phi. Its norm is B = sqrt(c' Phi c); trained for an infinite time, c = Phi^-1 Y_G and
B^2 = Y_G' Phi^-1 Y_G, with Y_G the labels less G; trained for less, B is smaller. The loss of a task is the mean over its queries
of min(clip, |F - y|), or of any other loss in [0, clip] that is 1-Lipschitz in the outputs of a query.

**A fixed B.** Of all h with norm B or less, the losses of tasks are N independent numbers in [0, clip] for every h, so with
probability 1 - delta (Mohri, Rostamizadeh & Talwalkar 2018, theorem 3.3, times clip)

    test loss <= training loss + 2 R + 3 clip sqrt(log(2 / delta) / 2N)    for all such h at once,

with R = E_s sup_h 1/N sum_i s_i L_i(h) over random signs s. Where the outputs at the n queries of a task change by a vector d, L_i
changes by |d|_1 / n at most, so by |d|_2 / sqrt(n). Then Maurer 2016, corollary 4, exchanges L_i for the outputs, with a sign for each:

    R <= sqrt(2) / (N sqrt(n)) E_s sup_h sum_ij s_ij h(x_ij) <= sqrt(2) B / (N sqrt(n)) sqrt(tr Phi),

by Cauchy-Schwarz and E s_ij s_kl = 0. This gives the complexity term 2 sqrt(2) B sqrt(tr Phi) / (N sqrt(n)). Where tasks have different
numbers of queries, tr Phi / n is the sum over tasks of tr Phi_ii / n_i; where a query has k outputs, each has its own h and the trace is k
times as large.

**A union over B.** B is known after training alone, and "for all h of norm B" was proved for a B fixed before. So take the levels
B_j = least ratio^j for j = 0, 1, ..., fixed before, each with probability delta_j = delta / ((j + 1)(j + 2)), which add up to delta. All
hold together with probability 1 - delta, and the one in use is the smallest B_j not below B. It costs a factor B_j / B, at most `ratio`
unless B is below `least`, and log((j + 1)(j + 2)) under the root: `Bound.union` is what both add.

**Assumed**: the network, its response (so its inner rate) and the levels are chosen before the tasks are seen; Phi is symmetric and not
negative, as of MAML and ANIL and not of first-order MAML; tests are of tasks from the same distribution, with the same noise.

Beside it, sqrt(Y_G' Phi^-1 Y_G / N), the quantity in the bound of Wang, Sun & Li 2020 (version 2): no bound without its constants, but a
number that ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.randomness import generator
from metabench.kernels.families import Sinusoids
from metabench.kernels.flow import SYMMETRIC, Flow
from metabench.kernels.meta_kernel import Joint, MetaKernel
from metabench.kernels.responses import alike, listed


@dataclass(frozen=True)
class Levels:
    """The levels of B over which the union is taken: least ratio^j. For labels and kernels of order one, B is of order one or more."""

    least: float = 1.0
    ratio: float = 1.25

    def __post_init__(self) -> None:
        """Raise MetabenchError where there are no such levels."""
        if not 0 < self.least < math.inf or not 1 < self.ratio < math.inf:
            raise MetabenchError(
                f"levels from {self.least:g} by factors of {self.ratio:g}: expected one above 0 and one above 1"
            )

    def above(self, norm: float) -> tuple[int, float]:
        """Return j and B_j of the smallest level that is not below a norm."""
        j = max(0, math.ceil(math.log(norm / self.least) / math.log(self.ratio))) if norm > 0 else 0
        # The logarithm may be rounded to the level below.
        j += self.least * self.ratio**j < norm
        return j, self.least * self.ratio**j


def share(j: int) -> float:
    """Return delta_j / delta, whose sum over j = 0, 1, ... is 1."""
    return 1 / ((j + 1) * (j + 2))


@dataclass(frozen=True)
class Bound:
    """A bound on the expected loss of new tasks, and its parts.

    Attributes:
        training_loss: mean over tasks of the mean over queries of min(clip, |F - y|).
        norm: B.
        capacity: the term in B, for the level above it.
        confidence: the term in delta, for that level.
        union: what the union over levels adds to the bound with B itself and delta undivided.
        clip: the largest loss, which bounds it without any proof.
    """

    training_loss: float
    norm: float
    capacity: float
    confidence: float
    union: float
    clip: float

    @property
    def total(self) -> float:
        """Return the bound."""
        return self.training_loss + self.capacity + self.confidence

    @property
    def vacuous(self) -> bool:
        """Tell whether the bound is no less than the largest loss, and so says nothing."""
        return self.total >= self.clip


def bound(
    flow: Flow,
    change: torch.Tensor,
    task: torch.Tensor,
    *,
    clip: float = 1.0,
    delta: float = 0.05,
    levels: Levels | None = None,
) -> Bound:
    """Return the bound after a meta-training that ended with a change, as `Flow.after` and `Flow.after_steps` return it.

    task: to which task each query of the flow belongs, shape [queries].

    Raises:
        MetabenchError: `clip` or `delta` is out of range, shapes do not match, or Phi is not symmetric or has a negative eigenvalue.
    """
    if not 0 < clip < math.inf or not 0 < delta < 1:
        raise MetabenchError(
            f"a bound with clip {clip:g} and delta {delta:g}: expected a clip above 0 and a delta between 0 and 1"
        )
    if task.shape != (len(flow.kernel),) or change.shape != flow.residual.shape:
        raise MetabenchError(
            f"tasks of shape {tuple(task.shape)} and a change of shape {tuple(change.shape)} for a flow of {len(flow.kernel)} queries with "
            f"residuals of shape {tuple(flow.residual.shape)}"
        )
    _raise_unless_a_space(flow)
    _, numbered, counts = task.unique(return_inverse=True, return_counts=True)
    number, weights = len(counts), 1 / counts[numbered].to(flow.kernel)
    losses = (flow.residual + flow.kernel @ change).norm(dim=1).clamp(max=clip)
    training = float((losses * weights).sum()) / number
    trace = float((flow.kernel.diagonal() * weights).sum()) * flow.residual.shape[1]
    norm = float((change * (flow.kernel @ change)).sum().clamp(min=0).sqrt())
    j, level = (Levels() if levels is None else levels).above(norm)

    def terms(of: float, probability: float) -> tuple[float, float]:
        capacity = 2 * math.sqrt(2) * of * math.sqrt(trace) / number
        return capacity, 3 * clip * math.sqrt(math.log(2 / probability) / (2 * number))

    capacity, confidence = terms(level, delta * share(j))
    return Bound(training, norm, capacity, confidence, capacity + confidence - sum(terms(norm, delta)), clip)


def complexity(flow: Flow, tasks: int) -> float:
    """Return sqrt(Y_G' Phi^-1 Y_G / N), summed over outputs. Wang, Sun & Li 2020, version 2.

    Raises:
        MetabenchError: Phi is not symmetric or not positive, or there is no task.
    """
    if tasks < 1:
        raise MetabenchError(f"a complexity over {tasks} tasks: expected 1 or more")
    _raise_unless_a_space(flow)
    _, change = flow.after(math.inf)
    return float((change * (flow.kernel @ change)).sum().clamp(min=0) / tasks) ** 0.5


def _raise_unless_a_space(flow: Flow) -> None:
    if not flow.symmetric:
        raise MetabenchError(
            "a bound by the norm of a function needs a symmetric meta kernel: that of first-order MAML is not"
        )
    values = flow.eigenvalues().real
    if float(values.min()) < -SYMMETRIC * float(values.abs().max()):
        raise MetabenchError(
            f"a bound by the norm of a function needs a meta kernel without negative eigenvalues: one is {values.min():.3g}"
        )


@dataclass(frozen=True)
class Measured:
    """A bound and a complexity beside the test error that they are about."""

    family: Sinusoids
    tasks: int
    bound: Bound
    complexity: float
    test_error: float

    @property
    def holds(self) -> bool:
        """Tell whether the test error is within the bound."""
        return self.test_error <= self.bound.total


def measured(
    of: MetaKernel,
    families: Sequence[Sinusoids],
    counts: Sequence[int],
    *,
    test_tasks: int = 100,
    time: float = math.inf,
    seed: int = 0,
    clip: float = 1.0,
    delta: float = 0.05,
) -> list[Measured]:
    """Return a row per family and number N of training tasks, trained for a time on the first N of the same draws.

    The test error is the mean of min(clip, |F - y|) over the queries of test tasks of the family.

    Raises:
        MetabenchError: there is no number of tasks or one below 1, or as `bound` and `Flow.after`.
    """
    if not counts or min(counts) < 1 or test_tasks < 1:
        raise MetabenchError(
            f"a bound measured with {list(counts)} training and {test_tasks} test tasks: expected 1 or more of each"
        )
    rows = []
    for family in families:
        drawn = family.draw(max(counts), generator(seed, "training tasks"))
        drawn += family.draw(test_tasks, generator(seed, "test tasks"))
        found = of.joint(drawn)
        rows += [_row(family, found, count, max(counts), time, clip, delta) for count in counts]
    return rows


def _row(family: Sinusoids, found: Joint, count: int, trained: int, time: float, clip: float, delta: float) -> Measured:
    train, test = found.task < count, found.task >= trained
    residual = found.adapted - found.labels
    flow = Flow(found.phi[train][:, train], residual[train])
    try:
        _, change = flow.after(time)
    except MetabenchError as error:
        task = found.task[train].tolist()
        same = [f"query {place - task.index(task[place])} of task {task[place]}" for place in alike(flow.kernel)]
        raise MetabenchError(f"{error}; {listed(same)} adapt alike" if same else str(error)) from error
    errors = (residual[test] + found.phi[test][:, train] @ change).norm(dim=1).clamp(max=clip)
    within = bound(flow, change, found.task[train], clip=clip, delta=delta)
    return Measured(family, count, within, complexity(flow, count), float(errors.mean()))


def ranks(rows: Sequence[Measured]) -> dict[int, float]:
    """Return, by number of training tasks, Spearman's rank correlation over families of the complexity with the test error."""
    from scipy.stats import spearmanr

    of = {count: [row for row in rows if row.tasks == count] for count in sorted({row.tasks for row in rows})}
    return {
        count: float(spearmanr([row.complexity for row in part], [row.test_error for row in part]).statistic)
        for count, part in of.items()
    }
