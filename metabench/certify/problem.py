"""What certification problems share, so that each of them is its mathematics and little else.

All of them are small, in float64, on the CPU, and the same at every run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import Batch, MetaRole, Metric, Problem, ProblemCard, Tree, Window
from metabench.core.lazy import torch
from metabench.core.method import NoOptions
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator

ADAPTIVE = ("adam", "adamw", "rmsprop")


class CertificationProblem(Problem):
    """An inner loss `scale` * f(w, l), an outer loss F(w, l), and the data of each inner step.

    A subclass states f, F and what a batch holds. Step sizes are not 1, inner batches differ from step to step, and the parameters are
    two tensors or more where the mathematics allows it: what a wrong hypergradient hides behind.
    """

    card = ProblemCard("", ("analytic",), {"small": ""}, (Metric("outer loss", "min"),), "", NoOptions, 4, 1)
    outer_optimiser = OuterOptimiser("SGD", learning_rate=0.1)
    carry = True
    batch = 0

    roles: ClassVar[frozenset[MetaRole]]  # type: ignore[misc]
    name: ClassVar[str]
    """The word in tables."""
    statement: ClassVar[str]
    """The mathematics in one line."""
    seed: ClassVar[int] = 0
    """Of data and start."""

    def __init__(
        self,
        optimiser: str = "sgd",
        inner_steps: int = 4,
        scale: float = 1.0,
        weight_decay: float = 0.0,
        features: int = 4,
    ) -> None:
        super().__init__(
            Setting("small", NoOptions(), inner_steps, 0, torch.device("cpu"), torch.float64, None)
        )
        self.scale, self.features, self.weight_decay, self.optimiser_name = scale, features, weight_decay, optimiser
        self.optimiser = inner_optimiser(optimiser, self.learning_rate(), weight_decay)

    def learning_rate(self) -> Any:
        """Return what the inner optimiser is built with."""
        return 0.05 if self.optimiser_name in ADAPTIVE else 0.3 / self.scale

    @abstractmethod
    def draw(self, stream: torch.Generator) -> Batch:
        """Return one batch."""

    @abstractmethod
    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f(w, l) on a batch, a scalar."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return scale * f(w, l)."""
        return self.scale * self.f(params, meta, batch)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows of batches drawn anew, the outer loss at their end."""
        stream = generator(self.seed, f"{self.name} data")
        outer = self.draw(stream)
        while True:
            yield [self.window(tuple(self.draw(stream) for _ in range(self.setting.inner_steps)), outer)]

    def window(self, inner: tuple[Batch, ...], outer: Batch) -> Window:
        """Return the window of these inner batches and this outer batch."""
        return Window.ending_in(inner, outer)

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return nothing: nobody trains on these."""
        return {}

    def normal(self, purpose: str, *shape: int) -> torch.Tensor:
        """Return standard normal numbers, the same for the same purpose."""
        return torch.randn(shape, generator=generator(self.seed, f"{self.name} {purpose}"), dtype=torch.float64)
