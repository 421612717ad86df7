"""Meta-training in the kernel regime: the residuals of the adapted outputs shrink by the meta kernel, r <- (I - eta Phi) r.

Wang, Sun & Li 2020, theorem 4. Phi of MAML is symmetric and has no eigenvalue below zero; that of first-order MAML is not symmetric, and
where an eigenvalue has a negative real part, it diverges. Nothing here asks which it is: sums of powers and integrals of exponentials are
parts of a power, and of the exponential, of a matrix twice as large, and need no inverse, so a singular Phi is no special case either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch

SYMMETRIC = 1e-10
"""By as much of its largest entry a matrix may differ from its transpose and count as symmetric."""
SINGULAR = 1e-13
"""Below as much of the largest modulus, the smallest one of an eigenvalue is zero, rounded."""


@dataclass(frozen=True)
class Flow:
    """Gradient descent on the mean over n queries of (F - y)^2 / 2, summed over outputs.

    What moves the outputs at other queries is the `change` c: they become G + Phi(other, train) c, with G what adaptation alone gives.

    Attributes:
        kernel: Phi of the queries trained on, shape [n, n].
        residual: their adapted outputs before meta-training, less the labels, shape [n, outputs].
    """

    kernel: torch.Tensor
    residual: torch.Tensor

    def __post_init__(self) -> None:
        """Raise MetabenchError where shapes do not match or a number is not finite."""
        n = len(self.residual)
        if self.kernel.shape != (n, n) or self.residual.dim() != 2:
            raise MetabenchError(
                f"a meta kernel of shape {tuple(self.kernel.shape)} with residuals of shape {tuple(self.residual.shape)}: expected [n, n] "
                "and [n, outputs]"
            )
        if not bool(self.kernel.isfinite().all() and self.residual.isfinite().all()):
            raise MetabenchError("a meta kernel or a residual has a number that is not finite")

    @property
    def symmetric(self) -> bool:
        """Tell whether Phi is symmetric up to rounding."""
        return bool((self.kernel - self.kernel.mT).abs().max() <= SYMMETRIC * self.kernel.abs().max())

    def eigenvalues(self) -> torch.Tensor:
        """Return the eigenvalues of Phi, complex, by ascending real part, shape [n]."""
        if self.symmetric:
            return torch.linalg.eigvalsh((self.kernel + self.kernel.mT) / 2).to(torch.complex128)
        found = torch.linalg.eigvals(self.kernel)
        return found[found.real.argsort()]

    def largest_rate(self) -> float:
        """Return the rate from which on a step overshoots along the largest eigenvalue: 2 n / its modulus."""
        return 2 * len(self.kernel) / float(self.eigenvalues().abs().max())

    def decay(self, rate: float) -> float:
        """Return the factor by which the residual shrinks in a step in the end, the largest |1 - rate e / n|; above 1 it grows."""
        return float((1 - rate / len(self.kernel) * self.eigenvalues()).abs().max())

    def after_steps(self, steps: int, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residuals after a number of steps, and the change, shape [n, outputs] each.

        Raises:
            MetabenchError: the number of steps is below zero, or the rate is not above.
        """
        if steps < 0 or not rate > 0:
            raise MetabenchError(f"{steps} outer steps at a rate of {rate:g}: expected 0 or more, at a rate above 0")
        eta, one = rate / len(self.kernel), self._one()
        # [[S, I], [0, I]]^steps has S^steps above on the left, and the sum of the lower powers of S on the right.
        step = torch.cat([torch.cat([one - eta * self.kernel, one], 1), torch.cat([0 * one, one], 1)])
        return self._parts(torch.linalg.matrix_power(step, steps), eta)

    def after(self, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residuals after gradient flow for a time, which may be infinite, and the change, shape [n, outputs] each.

        Raises:
            MetabenchError: the time is below zero; or it is infinite, and Phi is singular or makes a residual grow.
        """
        if not time >= 0:
            raise MetabenchError(f"a meta-training for a time of {time:g}: expected 0 or more")
        if math.isinf(time):
            values = self.eigenvalues()
            least, largest = float(values.real.min()), float(values.abs().max())
            if least <= SINGULAR * largest:
                raise MetabenchError(
                    f"for an infinite time there is no limit: an eigenvalue of the meta kernel has the real part {least:.3g}, and "
                    f"the largest has the modulus {largest:.3g}"
                )
            return torch.zeros_like(self.residual), -torch.linalg.solve(self.kernel, self.residual)
        share, one = time / len(self.kernel), self._one()
        flow = torch.cat([torch.cat([-share * self.kernel, share * one], 1), torch.cat([0 * one, 0 * one], 1)])
        return self._parts(torch.linalg.matrix_exp(flow), 1.0)

    def distance(self, change: torch.Tensor) -> float:
        """Return how far the change moves the parameters of MAML, sqrt(c' Phi c) over all outputs: the length of J^T P^T c."""
        return float((change * (self.kernel @ change)).sum().clamp(min=0).sqrt())

    def loss(self, steps: int, rate: float) -> float:
        """Return the loss after a number of steps, the mean over queries of (F - y)^2 / 2; raise MetabenchError as `after_steps`."""
        return float(self.after_steps(steps, rate)[0].square().sum() / (2 * len(self.residual)))

    def _one(self) -> torch.Tensor:
        return torch.eye(len(self.kernel), dtype=self.kernel.dtype, device=self.kernel.device)

    def _parts(self, found: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(self.kernel)
        return found[:n, :n] @ self.residual, -factor * found[:n, n:] @ self.residual
