"""Families of tasks that differ in how alike their tasks are and in the noise of their labels: sinusoids.

As in Finn, Abbeel & Levine 2017, section 5.1, a task is y = A sin(x + phase); here the spread of amplitudes and phases is a number. At 0
every task is the same, and meta-learning has one function to learn; at 1 the phases are all there are, and the queries of a task are
no more certain than its few examples make them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.meta_kernel import Episode


@dataclass(frozen=True)
class Sinusoids:
    """y = A sin(x + phase) + noise z, with A from 1 -+ spread / 2, the phase from -+ pi spread, x from -+ reach, and z ~ N(0, 1).

    Attributes:
        spread: from 0, all tasks are the same, to 1.
        noise: standard deviation of what is added to every label.
        shots: examples of a support.
        queries: examples that are queried.
        reach: the largest modulus of an input.
    """

    spread: float
    noise: float = 0.0
    shots: int = 3
    queries: int = 5
    reach: float = 2.0

    def __post_init__(self) -> None:
        """Raise MetabenchError where there is no such family."""
        if not 0 <= self.spread <= 1 or not self.noise >= 0 or not self.reach > 0:
            raise MetabenchError(
                f"sinusoids with spread {self.spread:g}, noise {self.noise:g} and reach {self.reach:g}: expected a spread from 0 to 1, "
                "a noise of 0 or more and a reach above 0"
            )
        if self.shots < 1 or self.queries < 1:
            raise MetabenchError(
                f"sinusoids with {self.shots} shots and {self.queries} queries: expected 1 or more of each"
            )

    def draw(self, tasks: int, stream: torch.Generator) -> list[Episode]:
        """Return independent tasks in float64; families that differ in spread and noise alone see the same inputs from the same stream."""
        found = []
        for _ in range(tasks):
            place = 2 * torch.rand(2, generator=stream, dtype=torch.float64) - 1
            amplitude, phase = 1 + self.spread / 2 * place[0], math.pi * self.spread * place[1]
            shape = (self.shots + self.queries, 1)
            inputs = self.reach * (2 * torch.rand(shape, generator=stream, dtype=torch.float64) - 1)
            noise = torch.randn(shape, generator=stream, dtype=torch.float64)
            labels = amplitude * torch.sin(inputs + phase) + self.noise * noise
            found.append(
                Episode(inputs[: self.shots], labels[: self.shots], inputs[self.shots :], labels[self.shots :])
            )
        return found


SPREADS = (0.0, 0.1, 0.25, 0.5, 1.0)
NOISES = (0.0, 0.1, 0.3)


def families(spreads: Sequence[float] = SPREADS, noises: Sequence[float] = NOISES) -> list[Sinusoids]:
    """Return a family per spread and noise; fifteen by default."""
    return [Sinusoids(spread, noise) for spread in spreads for noise in noises]
