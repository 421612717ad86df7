"""Covariances of the units of a layer, for all pairs of inputs, in a form that loses no digits where two inputs nearly agree.

In an infinitely wide network with random weights, a unit's values u, v at two inputs are jointly normal. A ReLU kernel depends on the angle
between the inputs as the unit sees them, and of nearby points the covariance no longer tells it: arccos of a cosine that rounds to 1
has lost half of its digits. So two numbers go from layer to layer, with a, b the variances of u and v and c their covariance: the *deficit*
sqrt(a b) - c, which is small where the points are near, and the *excess* sqrt(a b) + c, which is small where they are opposite. Neither is
ever computed as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch

ROUNDING = 1e-12
"""By as much of sqrt(a b) a covariance may be above it, rounded; by more, it is an error."""


@dataclass(frozen=True)
class Covariances:
    """Of a unit's values at n inputs, rows, and at m others, columns. Leading dimensions, if any, are a batch.

    Attributes:
        rows: variances at the former, shape [..., n].
        columns: variances at the latter, shape [..., m].
        deficit: sqrt(a b) - c of each pair, not negative, shape [..., n, m].
        excess: sqrt(a b) + c of each pair, not negative, shape [..., n, m].
        gap: sqrt(a) - sqrt(b) of each pair, shape [..., n, m].
    """

    rows: torch.Tensor
    columns: torch.Tensor
    deficit: torch.Tensor
    excess: torch.Tensor
    gap: torch.Tensor

    @property
    def product(self) -> torch.Tensor:
        """Return sqrt(a b), shape [..., n, m]."""
        return (self.excess + self.deficit) / 2

    @property
    def covariance(self) -> torch.Tensor:
        """Return c, shape [..., n, m]."""
        return (self.excess - self.deficit) / 2

    @property
    def determinant(self) -> torch.Tensor:
        """Return a b - c^2, shape [..., n, m]."""
        return self.deficit * self.excess

    @property
    def angle(self) -> torch.Tensor:
        """Return the angle in [0, pi] whose cosine is c / sqrt(a b), shape [..., n, m]; zero where a variance is."""
        return 2 * torch.atan2(self.deficit.sqrt(), self.excess.sqrt())

    @property
    def transposed(self) -> Covariances:
        """Return them with rows and columns exchanged."""
        return Covariances(self.columns, self.rows, self.deficit.mT, self.excess.mT, -self.gap.mT)

    def affine(self, weight_std: float, bias_std: float) -> Covariances:
        """Return the covariances after a dense layer with W ~ N(0, weight_std^2 / fan-in) and b ~ N(0, bias_std^2)."""
        scale, added = weight_std**2, bias_std**2
        rows, columns = scale * self.rows + added, scale * self.columns + added
        gap, product = weight_std * self.gap, scale * self.product
        # sqrt((a + s)(b + s)) - sqrt(a b) - s is never negative, and is written so that nothing cancels.
        raised = added * gap.square() / _nonzero(_roots(rows, columns, torch.mul) + product + added)
        before = weight_std * _roots(self.rows, self.columns, torch.add)
        return Covariances(
            rows,
            columns,
            scale * self.deficit + raised,
            scale * self.excess + raised + 2 * added,
            gap * before / _nonzero(_roots(rows, columns, torch.add)),
        )


def _roots(rows: torch.Tensor, columns: torch.Tensor, joined: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Return what a function makes of sqrt(a) and sqrt(b) of each pair, shape [..., n, m]."""
    return joined(rows.sqrt().unsqueeze(-1), columns.sqrt().unsqueeze(-2))


def _nonzero(divisor: torch.Tensor) -> torch.Tensor:
    """Return a divisor with 1 for 0: what it divides is then zero, too."""
    return torch.where(divisor > 0, divisor, torch.ones_like(divisor))


def accepted(dtype: torch.dtype) -> float:
    """Return by how much a correlation may be above 1, relative to 1: rounding."""
    return max(ROUNDING, 64 * torch.finfo(dtype).eps)


def of_moments(rows: torch.Tensor, columns: torch.Tensor, covariance: torch.Tensor) -> Covariances:
    """Return the covariances with given variances [..., n], [..., m] and covariance [..., n, m].

    Raises:
        MetabenchError: a pair has a correlation above 1 by more than rounding.
    """
    gap, product = _roots(rows, columns, torch.sub), _roots(rows, columns, torch.mul)
    beyond = covariance.abs() > (1 + accepted(product.dtype)) * product
    if bool(beyond.any()):
        worst = float((covariance / product).abs()[beyond].max())
        raise MetabenchError(f"two values have the correlation {worst:.12g}: expected at most 1, up to rounding")
    return Covariances(rows, columns, (product - covariance).clamp(min=0), (product + covariance).clamp(min=0), gap)


def of_inputs(rows: torch.Tensor, columns: torch.Tensor) -> Covariances:
    """Return x'y / dimensions for all pairs of inputs, shapes [..., n, dimensions] and [..., m, dimensions].

    Raises:
        MetabenchError: an input is not finite, the dimensions differ, or the dtype has no fractions.
    """
    if rows.shape[-1] != columns.shape[-1]:
        raise MetabenchError(
            f"inputs of {rows.shape[-1]} and of {columns.shape[-1]} dimensions have no kernel: expected as many"
        )
    for name, points in (("first", rows), ("second", columns)):
        if not points.is_floating_point():
            raise MetabenchError(
                f"the {name} inputs are of {points.dtype}: expected float64, or another dtype with fractions"
            )
        if not bool(points.isfinite().all()):
            place = int((~points.isfinite()).any(-1).flatten().nonzero()[0, 0])
            raise MetabenchError(f"input {place} of the {name} ones has a value that is not finite")
    norms, others = (torch.linalg.vector_norm(points, dim=-1) for points in (rows, columns))
    units, towards = (points / _nonzero(norm).unsqueeze(-1) for points, norm in ((rows, norms), (columns, others)))
    product = norms.unsqueeze(-1) * others.unsqueeze(-2) / rows.shape[-1]

    def halved(far: torch.Tensor) -> torch.Tensor:
        # Differences of unit vectors, and no product of matrices: |u - v|^2 = 2 - 2 u'v would lose half of the digits.
        return product * torch.cdist(units, far, compute_mode="donot_use_mm_for_euclid_dist").square() / 2

    gap = (norms.unsqueeze(-1) - others.unsqueeze(-2)) / rows.shape[-1] ** 0.5
    variances = (norm.square() / rows.shape[-1] for norm in (norms, others))
    return Covariances(*variances, halved(towards), halved(-towards), gap)
