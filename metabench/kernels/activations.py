"""Activations between infinitely wide layers: E[f(u) f(v)] and E[f'(u) f'(v)] of jointly normal u, v, in closed form or by quadrature.

Cho & Saul 2009 for ReLU (arc-cosine kernels), Williams 1997 for erf; GELU by Stein's lemma, as derived at its class. An activation maps
covariances to those after it, and returns the second function, the factor of the tangent kernel (Jacot et al. 2018, theorem 1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.kernels.covariances import Covariances, of_moments

Moments: TypeAlias = "tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]"
"""E[f(u)^2] of rows and of columns, E[f(u) f(v)] and E[f'(u) f'(v)]."""


class Activation(ABC):
    """An activation between infinitely wide layers, and the same one for finite networks."""

    @abstractmethod
    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return f of values, element by element."""

    @abstractmethod
    def after(self, before: Covariances) -> tuple[Covariances, torch.Tensor]:
        """Return the covariances of f(u), and E[f'(u) f'(v)], shape [..., n, m]."""


@dataclass(frozen=True)
class Leaky(Activation):
    """f(u) = u where u > 0, slope * u elsewhere: ReLU with slope 0, the identity with slope 1.

    With r(u) = max(u, 0), f(u) = slope u + (1 - slope) r(u), and E[u r(v)] = c / 2: so E[f f] = slope c + (1 - slope)^2 E[r r].
    """

    slope: float = 0.0

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return f of values."""
        return torch.where(values > 0, values, self.slope * values)

    def after(self, before: Covariances) -> tuple[Covariances, torch.Tensor]:
        """Return the covariances of f(u), and E[f'(u) f'(v)]."""
        bent, half = (1 - self.slope) ** 2, (1 + self.slope**2) / 2
        angle = before.angle
        # Of ReLU, sqrt(a b)/2 - E[r r] = d/2 - sqrt(a b) (sin t - t cos t) / 2 pi, where the first term is the larger one.
        relu = before.deficit / 2 - before.product * _sine_less(angle) / (2 * math.pi)
        deficit = self.slope * before.deficit + bent * relu
        excess = self.slope * before.excess + bent * (before.product - relu)
        slopes = self.slope + bent * (math.pi - angle) / (2 * math.pi)
        rows, columns = half * before.rows, half * before.columns
        return Covariances(rows, columns, deficit, excess, math.sqrt(half) * before.gap), slopes


_SERIES_BELOW = 1.0
_TERMS = 10


def _sine_less(angle: torch.Tensor) -> torch.Tensor:
    """Return sin t - t cos t: at small angles by its series, the sum of (-1)^(k+1) 2k t^(2k+1) / (2k+1)!, which loses no digits."""
    square = angle.square()
    series = torch.zeros_like(angle)
    for k in range(_TERMS, 0, -1):
        series = series * square + (-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1)
    return torch.where(angle < _SERIES_BELOW, angle * square * series, angle.sin() - angle * angle.cos())


@dataclass(frozen=True)
class Erf(Activation):
    """f(u) = erf(u), with E[f f] = 2/pi arcsin(2 c / sqrt((1 + 2a)(1 + 2b))). Williams 1997."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return f of values."""
        return torch.erf(values)

    def after(self, before: Covariances) -> tuple[Covariances, torch.Tensor]:
        """Return the covariances of f(u), and E[f'(u) f'(v)] = 4 / (pi sqrt((1 + 2a)(1 + 2b) - 4 c^2))."""
        a, b = before.rows.unsqueeze(-1), before.columns.unsqueeze(-2)
        rows, columns = (2 / math.pi * (2 * one / (1 + 2 * one)).asin() for one in (before.rows, before.columns))
        covariance = 2 / math.pi * (2 * before.covariance / ((1 + 2 * a) * (1 + 2 * b)).sqrt()).asin()
        slopes = 4 / math.pi * (1 + 2 * a + 2 * b + 4 * before.determinant).rsqrt()
        return of_moments(rows, columns, covariance), slopes


@dataclass(frozen=True)
class GELU(Activation):
    """f(u) = u Phi(u), with Phi the distribution function of the normal distribution. Hendrycks & Gimpel 2016.

    Stein's lemma, E[u F] = a E[dF/du] + c E[dF/dv], takes u and v out of E[u Phi(u) v Phi(v)] one by one. What is left are
    E[Phi Phi] = 1/4 + arcsin(c / sqrt((1 + a)(1 + b))) / 2 pi and E[phi phi] = 1 / (2 pi sqrt(D)), with D = (1 + a)(1 + b) - c^2, and
    E[phi' Phi] = -c / (1 + a) E[phi phi].
    """

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return f of values."""
        return torch.nn.functional.gelu(values)

    def after(self, before: Covariances) -> tuple[Covariances, torch.Tensor]:
        """Return the covariances of f(u), and E[f'(u) f'(v)]."""
        a, b = before.rows.unsqueeze(-1), before.columns.unsqueeze(-2)
        c, determinant = before.covariance, 1 + a + b + before.determinant
        rows, columns = (_gelu(one, one, one, 1 + 2 * one) for one in (before.rows, before.columns))
        density = determinant.rsqrt() / (2 * math.pi)
        mixed = density * c * (1 / (1 + a) + 1 / (1 + b) + 1 / determinant)
        slopes = _both_below(a, b, c) + mixed
        return of_moments(rows, columns, _gelu(a, b, c, determinant)), slopes


def _both_below(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return E[Phi(u) Phi(v)]."""
    return 0.25 + (c / ((1 + a) * (1 + b)).sqrt()).asin() / (2 * math.pi)


def _gelu(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, determinant: torch.Tensor) -> torch.Tensor:
    """Return E[u Phi(u) v Phi(v)]."""
    density = determinant.rsqrt() / (2 * math.pi)
    return c * _both_below(a, b, c) + density * (a * b + c.square() - c.square() * (a / (1 + a) + b / (1 + b)))


@dataclass(frozen=True)
class Quadrature(Activation):
    """Any other activation, by the trapezoidal rule over u and v.

    Equally spaced nodes converge geometrically where f is analytic in a strip. Gauss-Hermite quadrature, made for polynomials, is still off
    by 4e-6 with 240 nodes for tanh and a variance of 4, because tanh has poles; 160 of these are off by less than 1e-14.

    Attributes:
        function: f, of a tensor, element by element.
        derivative: f', likewise.
        tolerance: the largest error that is accepted, relative to sqrt(E[f(u)^2] E[f(v)^2]).
        limit: the most nodes, in each of the two dimensions.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    derivative: Callable[[torch.Tensor], torch.Tensor]
    tolerance: float = 1e-10
    limit: int = 640

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return f of values."""
        return self.function(values)

    def after(self, before: Covariances) -> tuple[Covariances, torch.Tensor]:
        """Return the covariances of f(u), and E[f'(u) f'(v)], with as many nodes as half of them agree with to the tolerance.

        Raises:
            MetabenchError: the limit is too few: f has a kink, or is steep.
        """
        points, coarse, error = 40, self._moments(before, 40), math.inf
        while 2 * points <= self.limit:
            points *= 2
            fine = self._moments(before, points)
            error = _difference(coarse, fine)
            if error <= self.tolerance:
                rows, columns, covariance, slopes = fine
                return of_moments(rows, columns, covariance), slopes
            coarse = fine
        raise MetabenchError(
            f"quadrature with {points} nodes is off by about {error:.1e}, relative to the variance, and {self.tolerance:.0e} is accepted: "
            "the activation has a kink or is steep; raise `limit` or `tolerance`"
        )

    def _moments(self, before: Covariances, points: int) -> Moments:
        """Return E[f(u)^2] of rows and of columns, E[f(u) f(v)] and E[f'(u) f'(v)]."""
        nodes, weights = _normal_nodes(points, before.rows)
        rows, columns = (
            (self.function(one.sqrt().unsqueeze(-1) * nodes).square() * weights).sum(-1)
            for one in (before.rows, before.columns)
        )
        root = before.rows.sqrt().unsqueeze(-1)
        # v = (c / sqrt a) z1 + sqrt(b - c^2 / a) z2; where a is zero, so is c.
        safe = torch.where(root > 0, root, torch.ones_like(root))
        along = torch.where(root > 0, before.covariance / safe, torch.zeros_like(before.covariance))
        beside = torch.where(
            root > 0, before.determinant.clamp(min=0) / safe.square(), before.columns.unsqueeze(-2).expand_as(along)
        ).sqrt()
        covariance, slopes = torch.zeros_like(along), torch.zeros_like(along)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            v = (along * node).unsqueeze(-1) + beside.unsqueeze(-1) * nodes
            u = root * node
            covariance += weight * self.function(u) * (self.function(v) * weights).sum(-1)
            slopes += weight * self.derivative(u) * (self.derivative(v) * weights).sum(-1)
        return rows, columns, covariance, slopes


def _difference(coarse: Moments, fine: Moments) -> float:
    """Return the largest difference of covariances, relative to the variance, and of slopes, relative to the largest."""
    tiny = torch.finfo(fine[0].dtype).tiny
    scale = fine[0].sqrt().unsqueeze(-1) * fine[1].sqrt().unsqueeze(-2)
    return max(
        float(((fine[2] - coarse[2]).abs() / scale.clamp(min=tiny)).max()),
        float((fine[3] - coarse[3]).abs().max() / fine[3].abs().max().clamp(min=tiny)),
    )


_REACH = 9.0
"""Standard deviations to either side: what is beyond weighs 2e-19."""


def _normal_nodes(points: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return equally spaced nodes and their weights under the normal distribution, shape [points] each."""
    nodes = torch.linspace(-_REACH, _REACH, points, dtype=torch.float64)
    weights = (-nodes.square() / 2).exp()
    return nodes.to(like), (weights / weights.sum()).to(like)


def _tanh_slope(values: torch.Tensor) -> torch.Tensor:
    return 1 - torch.tanh(values).square()


ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": lambda: Leaky(0.0),
    "leaky_relu": lambda: Leaky(0.1),
    "identity": lambda: Leaky(1.0),
    "erf": Erf,
    "gelu": GELU,
    "tanh": lambda: Quadrature(torch.tanh, _tanh_slope),
}
"""Activations by name; tanh by quadrature."""


def activation(name: str) -> Activation:
    """Return an activation by name.

    Raises:
        MetabenchError: there is no kernel of it; the nearest name is said, and what there is.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation with a kernel", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
