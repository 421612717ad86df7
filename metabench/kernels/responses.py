"""How an inner run responds to its support: the matrix T with adapted outputs f(x) + Theta(x, X') T (Y' - f(X')).

Theta(X', X') has the eigenvalues e >= 0. Gradient descent on a squared loss moves the outputs along its eigenvectors alone, so T is
a function of Theta(X', X'), given by a function of e: of K steps (1 - (1 - eta e)^K) / e, of time tau (1 - exp(-tau e)) / e, and of a
minimum under a proximal term 1 / (e + ridge). Wang, Sun & Li 2020, section 3 (time); Rajeswaran et al. 2019 (proximal).

What a method takes the derivative of the adapted parameters to be is a response, too: dw_K/dl = kept I - J'^T T J'. It is exact with the
inner run's own T and kept = 1, first-order with T = 0, and an implicit one with the T of a minimum, or of a series.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch

NEAR_ZERO = 1e-12
"""Eigenvalues below as much of the largest are zero, rounded."""
_SMALL = 1e-9
"""A ridge that stands for none, as a part of the largest eigenvalue: rounding is divided by it, and six digits or so are left."""


class NoInverse(MetabenchError):
    """The kernel of a support is singular, and the time infinite."""


class Response(ABC):
    """How an inner run responds to its support, or is taken to."""

    @property
    def kept(self) -> float:
        """The share of a change of the start that stays where the support sees nothing: 1, unless a series is cut short, or damped."""
        return 1.0

    @abstractmethod
    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return the eigenvalues of T for those of Theta(X', X'), in ascending order, shape [..., n]; they are not negative.

        Raises:
            MetabenchError: there is no such inner run.
        """

    def __call__(self, gram: torch.Tensor) -> torch.Tensor:
        """Return T for Theta(X', X'), shape [..., n, n], symmetric.

        Raises:
            MetabenchError: the matrix is not positive, or there is no such inner run.
        """
        values, vectors = torch.linalg.eigh(gram)
        largest = values[..., -1:].abs()
        if bool((values < -NEAR_ZERO * largest).any()):
            raise MetabenchError(
                f"the kernel of a support has the eigenvalue {float(values.min()):.3g}, and {float(values.max()):.3g} as the largest: "
                "expected none below zero"
            )
        return vectors * self.of(values.clamp(min=0)).unsqueeze(-2) @ vectors.mT


@dataclass(frozen=True)
class Steps(Response):
    """K steps of gradient descent with a rate on the *mean* over the support of (f - y)^2 / 2: eta = rate / n.

    With a `proximal` term c / 2 |w - w_0|^2 they are those of iMAML's inner run: (1 - (1 - eta (e + n c))^K) / (e + n c).

    Attributes:
        count: K.
        rate: of a step.
        proximal: c.
    """

    count: int
    rate: float
    proximal: float = 0.0

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return (1 - (1 - eta e)^K) / e, with e + n c for e; K eta where that is zero.

        Raises:
            MetabenchError: a step is longer than 2 / e for the largest e: the run diverges.
        """
        if self.count < 0 or not self.rate > 0 or not self.proximal >= 0:
            raise MetabenchError(
                f"{self.count} steps at a rate of {self.rate:g} with a proximal term of {self.proximal:g}: expected 0 or more, at a rate "
                "above 0, with 0 or more"
            )
        support = eigenvalues.shape[-1]
        eta, curvature = self.rate / support, eigenvalues + support * self.proximal
        largest = float(curvature.max())
        if eta * largest > 2:
            raise MetabenchError(
                f"an inner rate of {self.rate:g} diverges: the largest eigenvalue of a support's kernel is {largest:.4g}, and rates below "
                f"{2 * support / largest:.4g} converge"
            )
        # Horner's rule for eta times the sum of (1 - eta e)^j: exact for small e, and K is small.
        factor, found = 1 - eta * curvature, torch.zeros_like(eigenvalues)
        for _ in range(self.count):
            found = found * factor + eta
        return found


@dataclass(frozen=True)
class Time(Response):
    """Gradient flow on the *sum* over the support of (f - y)^2 / 2, for a time that may be infinite.

    On the mean over a support of n it is the flow for n times as long.
    """

    tau: float

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return (1 - exp(-tau e)) / e; tau where e is zero.

        Raises:
            MetabenchError: the time is below zero; it is infinite and an eigenvalue is zero: inputs of the support agree.
        """
        if not self.tau >= 0:
            raise MetabenchError(f"an inner run for a time of {self.tau:g}: expected 0 or more")
        zero = eigenvalues <= NEAR_ZERO * eigenvalues[..., -1:]
        if math.isinf(self.tau):
            if bool(zero.any()):
                raise NoInverse(
                    "for an infinite time the kernel of a support has no inverse: two of its inputs, or more, agree to the network or "
                    f"depend on one another; a ridge of {_SMALL * float(eigenvalues.max()):.1e} would do"
                )
            return 1 / eigenvalues
        safe = torch.where(zero, torch.ones_like(eigenvalues), eigenvalues)
        return torch.where(zero, torch.full_like(safe, self.tau), -torch.expm1(-self.tau * safe) / safe)


@dataclass(frozen=True)
class Ridge(Response):
    """The minimum of the *sum* over the support of (f - y)^2 / 2 and ridge / 2 times the squared distance from the start: iMAML."""

    ridge: float

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return 1 / (e + ridge); raise MetabenchError if the ridge is not above zero."""
        if not self.ridge > 0:
            raise MetabenchError(f"a ridge of {self.ridge:g}: expected a number above 0")
        return 1 / (eigenvalues + self.ridge)


@dataclass(frozen=True)
class Damped(Response):
    """What an implicit method with a damped Hessian takes iMAML's response to be: c / (h + damping), with h = e / n + c. `Ridge` without.

    Attributes:
        proximal: c.
        damping: added to the Hessian's diagonal.
    """

    proximal: float
    damping: float = 0.0

    def __post_init__(self) -> None:
        """Raise MetabenchError where there is no such inverse."""
        if not self.proximal > 0 or not self.damping >= 0:
            raise MetabenchError(
                f"a proximal term of {self.proximal:g} with a damping of {self.damping:g}: expected a number above 0, and 0 or more"
            )

    @property
    def kept(self) -> float:
        """Return c / (c + damping)."""
        return self.proximal / (self.proximal + self.damping)

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return kept / (e + n (c + damping))."""
        return self.kept / (eigenvalues + eigenvalues.shape[-1] * (self.proximal + self.damping))


@dataclass(frozen=True)
class Nothing(Response):
    """No inner run, and what first-order MAML takes the derivative of one to be: T = 0."""

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return zero."""
        return torch.zeros_like(eigenvalues)


@dataclass(frozen=True)
class NeumannSeries(Response):
    """What a truncated Neumann series takes iMAML's response to be. Lorraine et al. 2020, algorithm 3.

    With c the proximal term and h = e / n + c the curvature of the inner loss, (d2f/dl dw) (d2f/dw2)^-1 is c / h, and its series
    q(h) = c alpha sum_{j <= steps} (1 - alpha h)^j. So dw_K/dl is q(c) where the support sees nothing, which is below 1, and
    T = (q(c) - q(e / n + c)) / e.

    Attributes:
        terms: of the series after the first.
        scale: alpha.
        proximal: c.
    """

    terms: int
    scale: float
    proximal: float

    def __post_init__(self) -> None:
        """Raise MetabenchError where there is no such series."""
        if self.terms < 0 or not self.scale > 0 or not self.proximal > 0:
            raise MetabenchError(
                f"a Neumann series of {self.terms} terms with the scale {self.scale:g} and a proximal term of {self.proximal:g}: expected "
                "0 or more, and numbers above 0"
            )

    @property
    def kept(self) -> float:
        """Return q(c) = 1 - (1 - alpha c)^(steps + 1)."""
        return 1 - (1 - self.scale * self.proximal) ** (self.terms + 1)

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return (q(c) - q(e / n + c)) / e, by a recurrence in which nothing cancels."""
        support = eigenvalues.shape[-1]
        alpha, least = self.scale, 1 - self.scale * self.proximal
        factor = least - alpha * eigenvalues / support
        # S_j of the sum and D_j of the difference of two sums over e / n: S <- 1 + factor S, D <- least D + alpha S.
        total, found = torch.ones_like(eigenvalues), torch.zeros_like(eigenvalues)
        for _ in range(self.terms):
            found = least * found + alpha * total
            total = 1 + factor * total
        return self.proximal * alpha * found / support


def to_supports(response: Response, grams: torch.Tensor, labels: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Return T of the supports of tasks, and say which inputs of which task agree where there is none.

    Args:
        response: of the inner run.
        grams: Theta(X', X') of one task, shape [n, n], or of several, [tasks, n, n].
        labels: shape [n, outputs], or [tasks, n, outputs].
        first: the number by which a message names the task, or the first of them.

    Raises:
        MetabenchError: as the response.
    """
    try:
        return response(grams)
    except NoInverse as error:
        pairs = zip(grams.reshape(-1, *grams.shape[-2:]), labels.reshape(-1, *labels.shape[-2:]), strict=True)
        for task, (gram, given) in enumerate(pairs, first):
            if same := alike(gram):
                differ, ridge = bool((given[same] != given[same[0]]).any()), _SMALL * _largest(gram)
                raise MetabenchError(
                    f"for an infinite time the kernel of the support of task {task} has no inverse: its inputs {listed(same)} agree to "
                    f"the network, and their labels {'differ' if differ else 'agree'}; a ridge of {ridge:.1e} would do"
                    + (", and meets the mean of their labels" if differ else "")
                ) from error
        raise


def alike(gram: torch.Tensor) -> list[int]:
    """Return the first points of a kernel, shape [n, n], that have the same features, two or more by ascending number; empty if none have.

    Half the squared distance of two is no less than the smallest eigenvalue, so what is zero of the one is zero of the other.
    """
    variances = gram.diagonal()
    half = (variances.unsqueeze(1) + variances) / 2 - gram
    same = half <= NEAR_ZERO * _largest(gram)
    twice = same.triu(1).any(1).nonzero()
    return same[twice[0, 0]].nonzero()[:, 0].tolist() if len(twice) else []


def _largest(gram: torch.Tensor) -> float:
    return float(torch.linalg.eigvalsh(gram)[-1])


def listed(items: Sequence[object]) -> str:
    """Return '0, 2 and 5' for two or more."""
    *others, last = map(str, items)
    return f"{', '.join(others)} and {last}"
