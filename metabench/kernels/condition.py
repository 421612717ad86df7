"""How well conditioned the meta kernel of an architecture is: a score for a search, without any training.

Meta-training shrinks residuals at rates that are the eigenvalues of Phi, so the slowest takes cond(Phi) times as long as the fastest.
Chen, Gong & Wang 2021 (TE-NAS) rank networks by the condition number of the tangent kernel, Wang et al. 2022 (MetaNTK-NAS, arXiv
2203.09137) by that of the meta kernel, with a ridge for the inner run and the head alone adapting. Published code divides by the smallest
eigenvalue whatever its sign, so a kernel that is not positive definite has a negative number and is ranked first. Here it is infinite,
with the reason.

A score is a function from an architecture and tasks to a number; the smaller, the better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.randomness import generator
from metabench.kernels.empirical import Empirical
from metabench.kernels.flow import SINGULAR, SYMMETRIC
from metabench.kernels.meta_kernel import Episode, Kernel, MetaKernel
from metabench.kernels.responses import Response, Ridge

PUBLISHED = Ridge(1e-3)
"""The inner run of MetaNTK-NAS: the inverse of a support's kernel, with this ridge."""

Source: TypeAlias = Literal["analytic", "initial"]


@dataclass(frozen=True)
class Architecture:
    """What is scored.

    Attributes:
        name: for tables; random ranking draws by it, so it is unique.
        parameters: their number; infinite for infinite width.
        kernel: of infinite width; None: there is none in closed form.
        drawn: the kernels of the finite network as drawn with a seed; None: its width is infinite.
    """

    name: str
    parameters: float
    kernel: Kernel | None = None
    drawn: Callable[[int], Empirical] | None = None

    def __post_init__(self) -> None:
        """Raise MetabenchError where there is neither."""
        if self.kernel is None and self.drawn is None:
            raise MetabenchError(
                f"architecture '{self.name}' has no kernel in closed form and no finite network: expected one or both"
            )


Score: TypeAlias = "Callable[[Architecture, Sequence[Episode]], float]"
"""From an architecture and tasks to a number, the smaller the better, and infinite for the worst."""


@dataclass(frozen=True)
class Conditioning:
    """The extreme eigenvalues of a meta kernel.

    Attributes:
        least: the smallest eigenvalue, which may be negative.
        largest: the largest.
        floor: up to this, an eigenvalue is zero, rounded.
    """

    least: float
    largest: float
    floor: float

    @property
    def number(self) -> float:
        """Return largest / least; infinite where the kernel is not positive definite."""
        return self.largest / self.least if self.least > self.floor else math.inf

    @property
    def reason(self) -> str:
        """Say why the number is infinite; empty where it is not."""
        if self.least > self.floor:
            return ""
        if self.least < -self.floor:
            return f"indefinite: an eigenvalue is {self.least:.3g}, and the largest {self.largest:.3g}"
        return f"singular: the least eigenvalue is zero up to rounding, and the largest {self.largest:.3g}"


def conditioning(of: MetaKernel, tasks: Sequence[Episode]) -> Conditioning:
    """Return the extreme eigenvalues of the meta kernel of all queries of some tasks.

    Phi is what adaptation leaves of the network's own kernel, a difference, so it is rounded by parts of that kernel's eigenvalues.

    Raises:
        MetabenchError: Phi is not symmetric, as of first-order MAML, or not finite; or as `MetaKernel.joint`.
    """
    found = of.joint(tasks)
    phi = found.phi
    if not bool(phi.isfinite().all()):
        raise MetabenchError("a meta kernel has a number that is not finite: it has no condition number")
    before = float(found.tangent.abs().max())
    if bool((phi - phi.mT).abs().max() > SYMMETRIC * max(before, float(phi.abs().max()))):
        raise MetabenchError(
            "a meta kernel that is not symmetric, as that of first-order MAML, has no condition number of its eigenvalues"
        )
    values = torch.linalg.eigvalsh((phi + phi.mT) / 2)
    own = float(torch.linalg.eigvalsh(found.tangent)[-1])
    least, largest = float(values[0]), float(values[-1])
    epsilon = SINGULAR * torch.finfo(phi.dtype).eps / torch.finfo(torch.float64).eps
    return Conditioning(least, largest, epsilon * max(largest, own))


@dataclass(frozen=True)
class ConditionNumber:
    """The condition number of the meta kernel as a score.

    Attributes:
        response: of the inner run: by ridge, by time or by steps.
        head: whether the last layer alone adapts, as in ANIL; finite networks then name theirs in `Empirical.head`.
        source: 'analytic', the kernel of infinite width; 'initial', that of finite networks as drawn; None: the former if there is one.
        draws: of finite networks, with seeds 0, 1, ...; the score is the geometric mean over them, infinite if one is.
    """

    response: Response = PUBLISHED
    head: bool = False
    source: Source | None = None
    draws: int = 4

    def __post_init__(self) -> None:
        """Raise MetabenchError where a value is out of range."""
        if self.source is not None and self.source not in get_args(Source):
            raise unknown("source of kernels", self.source, get_args(Source))
        if self.draws < 1:
            raise MetabenchError(f"a condition number over {self.draws} draws of a network: expected 1 or more")

    def __call__(self, architecture: Architecture, tasks: Sequence[Episode]) -> float:
        """Return the condition number; raise MetabenchError as `found`."""
        return self.mean(self.found(architecture, tasks))

    def mean(self, found: Sequence[Conditioning]) -> float:
        """Return the geometric mean of condition numbers; infinite if one is."""
        return math.exp(math.fsum(math.log(one.number) for one in found) / len(found))

    def found(self, architecture: Architecture, tasks: Sequence[Episode]) -> list[Conditioning]:
        """Return the extreme eigenvalues of the analytic kernel, or of each draw.

        Raises:
            MetabenchError: the architecture has no kernel from the source; the head adapts and a finite network does not name it; or as
                `conditioning`.
        """
        source = self.source or ("initial" if architecture.kernel is None else "analytic")
        if source == "analytic":
            if architecture.kernel is None:
                raise MetabenchError(
                    f"architecture '{architecture.name}' has no kernel in closed form: score it by that of draws ('initial')"
                )
            return [self._of(architecture.kernel, tasks)]
        if architecture.drawn is None:
            raise MetabenchError(
                f"architecture '{architecture.name}' has no finite network to draw: score it by its 'analytic' kernel"
            )
        drawn = [architecture.drawn(seed) for seed in range(self.draws)]
        if self.head and not all(one.head for one in drawn):
            raise MetabenchError(
                f"architecture '{architecture.name}' does not name its last layer, and the head alone is to adapt: set `head`"
            )
        return [self._of(one.kernels, tasks) for one in drawn]

    def _of(self, kernel: Kernel, tasks: Sequence[Episode]) -> Conditioning:
        return conditioning(MetaKernel(kernel, self.response, head=self.head), tasks)


def parameter_count(architecture: Architecture, tasks: Sequence[Episode]) -> float:
    """Return 1 / number of parameters: the larger network is ranked first."""
    return 1 / architecture.parameters


@dataclass(frozen=True)
class RandomRanking:
    """A number from 0 to 1 for each name and seed, which knows nothing: what a score has to beat."""

    seed: int = 0

    def __call__(self, architecture: Architecture, tasks: Sequence[Episode]) -> float:
        """Return the number of an architecture."""
        return float(
            torch.rand((), generator=generator(self.seed, f"rank of {architecture.name}"), dtype=torch.float64)
        )


def ranked(
    score: Score, architectures: Sequence[Architecture], tasks: Sequence[Episode]
) -> list[tuple[Architecture, float]]:
    """Return architectures with their scores, the best first; those with the same score in the order given.

    Raises:
        MetabenchError: a score is not a number; or as the score.
    """
    found = [(one, score(one, tasks)) for one in architectures]
    for one, value in found:
        if math.isnan(value):
            raise MetabenchError(
                f"architecture '{one.name}' has a score that is not a number: infinite would put it last"
            )
    return sorted(found, key=lambda pair: pair[1])
