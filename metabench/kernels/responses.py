"""How an inner run responds to its support: the matrix T with adapted outputs f(x) + Theta(x, X') T (Y' - f(X')).

Theta(X', X') has the eigenvalues e >= 0. Gradient descent on a squared loss moves the outputs along its eigenvectors alone, so T is
a function of Theta(X', X'), given by a function of e: of K steps (1 - (1 - eta e)^K) / e, of time tau (1 - exp(-tau e)) / e, and of a
minimum under a proximal term 1 / (e + ridge). Wang, Sun & Li 2020, section 3 (time); Rajeswaran et al. 2019 (proximal).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch

NEAR_ZERO = 1e-12
"""Eigenvalues below as much of the largest are zero, rounded."""


class Response(ABC):
    """How an inner run responds to its support."""

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

    Attributes:
        count: K.
        rate: of a step.
    """

    count: int
    rate: float

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return (1 - (1 - eta e)^K) / e; K eta where e is zero.

        Raises:
            MetabenchError: a step is longer than 2 / e for the largest e: the run diverges.
        """
        if self.count < 0 or self.rate <= 0:
            raise MetabenchError(
                f"{self.count} steps at a rate of {self.rate:g}: expected 0 or more, at a rate above 0"
            )
        eta = self.rate / eigenvalues.shape[-1]
        largest = float(eigenvalues.max())
        if eta * largest > 2:
            raise MetabenchError(
                f"an inner rate of {self.rate:g} diverges: the largest eigenvalue of a support's kernel is {largest:.4g}, and rates below "
                f"{2 * eigenvalues.shape[-1] / largest:.4g} converge"
            )
        # Horner's rule for eta times the sum of (1 - eta e)^j: exact for small e, and K is small.
        factor, found = 1 - eta * eigenvalues, torch.zeros_like(eigenvalues)
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
                ridge = 1e-10 * float(eigenvalues.max())
                raise MetabenchError(
                    "for an infinite time the kernel of a support has no inverse: two of its inputs, or more, agree to the network; a "
                    f"ridge of {ridge:.1e} has the same outputs to ten digits, if their labels agree"
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
class Nothing(Response):
    """No inner run, and what first-order MAML takes the derivative of one to be: T = 0."""

    def of(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """Return zero."""
        return torch.zeros_like(eigenvalues)
