"""What certification problems share, so that each contains little but its mathematics.

All of them are small, in float64, on the CPU, and the same at every run.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from metabench.autodiff.optimisers import STEP_COUNT, inner_optimiser
from metabench.core import Batch, MetaRole, Metric, OptimiserState, Problem, ProblemCard, Tree, Window, once
from metabench.core.lazy import torch
from metabench.core.method import NoOptions
from metabench.core.problem import InnerOptimiser, OuterOptimiser, Setting
from metabench.core.randomness import generator

ADAPTIVE = ("adam", "adamw", "rmsprop")

SCHEDULED = "scheduled"
"""An optimiser that no library has: see `Scheduled`."""

DUE: Mapping[str, Any] = {
    "end": lambda k, steps: k == steps - 1,
    "every": lambda k, steps: True,
    "gaps": lambda k, steps: k % 2 == 1,
    "early": lambda k, steps: k == 0,
}
"""After which of a window's steps an outer loss is due. With `gaps` and `early` none needs to be due at the end."""


class CertificationProblem(Problem):
    """An inner loss `scale` * f(w, l), an outer loss F(w, l), and the data of each inner step.

    A subclass states f, F and what a batch holds. Step sizes are not 1, batches differ from step to step and from one outer loss to the
    next, and the parameters are two tensors or more where the mathematics allows it: otherwise wrong hypergradients could pass.
    """

    card = ProblemCard("", ("analytic",), {"small": ""}, (Metric("outer loss", "min"),), "", NoOptions, 4, 1)
    outer_optimiser = OuterOptimiser("SGD", learning_rate=0.1)
    restarts = False
    """Whether a new inner run begins with every window."""
    batch = 0

    roles: frozenset[MetaRole]
    name: str
    """The word in tables."""
    statement: ClassVar[str]
    """The mathematics in one line."""
    seed: ClassVar[int] = 0
    """Of data and start."""
    examples: ClassVar[int] = 12
    """In a batch."""

    def __init__(
        self,
        optimiser: str = "sgd",
        inner_steps: int = 4,
        scale: float = 1.0,
        weight_decay: float = 0.0,
        features: int = 4,
        due: str = "end",
    ) -> None:
        super().__init__(Setting("small", NoOptions(), inner_steps, 0, torch.device("cpu"), torch.float64, None))
        self.scale, self.features, self.weight_decay, self.optimiser_name = scale, features, weight_decay, optimiser
        self.due = due
        self.optimiser: InnerOptimiser
        if optimiser == SCHEDULED:
            self.optimiser = Scheduled(self.learning_rate(), self.momentum)
        else:
            self.optimiser = inner_optimiser(optimiser, self.learning_rate(), weight_decay)

    def learning_rate(self) -> Any:
        """Return what the inner optimiser is built with: a number, or a function of l and the step that returns one, or one per tensor."""
        return 0.05 if self.optimiser_name in ADAPTIVE else 0.3 / self.scale

    def rates(self, meta: Tree, params: Tree, step: float) -> dict[str, Any]:
        """Return the learning rate of each parameter tensor at `meta`, after `step` updates."""
        setting = self.learning_rate()
        value = setting(meta, torch.tensor(step, dtype=torch.float64)) if callable(setting) else setting
        return value if isinstance(value, dict) else dict.fromkeys(params, value)

    def momentum(self, meta: Tree) -> Any:
        """Return the momentum of the scheduled optimiser at `meta`."""
        return 0.8

    @abstractmethod
    def beginning(self) -> tuple[Tree, Tree]:
        """Return the parameters that inner runs begin with, and the initial meta-parameters."""

    def initial(self) -> Tree:
        """Return the initial meta-parameters."""
        return self.beginning()[1]

    @abstractmethod
    def draw(self, stream: torch.Generator) -> Batch:
        """Return one batch."""

    def draw_outer(self, stream: torch.Generator) -> Batch:
        """Return one batch of the outer loss: one like those of the inner loss, unless the problem says otherwise."""
        return self.draw(stream)

    @abstractmethod
    def f(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return f(w, l) on a batch, a scalar."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return scale * f(w, l)."""
        return self.scale * self.f(params, meta, batch)

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows of fresh batches."""
        stream = generator(self.seed, f"{self.name} data")
        steps, params = self.setting.inner_steps, self.beginning()[0]
        for begins in itertools.repeat(params) if self.restarts else once(params):
            outer = tuple(self.draw_outer(stream) if DUE[self.due](k, steps) else None for k in range(steps))
            yield [Window(tuple(self.draw(stream) for _ in range(steps)), outer, begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return nothing: nobody trains on these."""
        return {}

    def normal(self, purpose: str, *shape: int) -> torch.Tensor:
        """Return standard normal numbers, the same for the same purpose."""
        return torch.randn(shape, generator=generator(self.seed, f"{self.name} {purpose}"), dtype=torch.float64)


@dataclass(frozen=True)
class Scheduled:
    """b <- mu(l) b + g; w <- w - lr / sqrt(t) p b, t counting steps from 1: a schedule, a slot that l enters, and one that never moves."""

    learning_rate: Any
    momentum: Callable[[Tree], Any]

    def init(self, params: Tree) -> OptimiserState:
        """Return zero momentum, p and a step count of zero."""
        return {
            "momentum": {name: torch.zeros_like(leaf) for name, leaf in params.items()},
            "preconditioner": {
                name: torch.full_like(leaf, 0.6 + 0.3 * place) for place, (name, leaf) in enumerate(params.items())
            },
            STEP_COUNT: {"count": next(iter(params.values())).new_zeros(())},
        }

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        count = state[STEP_COUNT]["count"] + 1
        rate = self.learning_rate(meta, count - 1) if callable(self.learning_rate) else self.learning_rate
        rates = rate if isinstance(rate, dict) else dict.fromkeys(params, rate)
        momentum = {name: self.momentum(meta) * state["momentum"][name] + g for name, g in gradient.items()}
        moved = {
            name: w - rates[name] * count**-0.5 * state["preconditioner"][name] * momentum[name]
            for name, w in params.items()
        }
        slots = {"momentum": momentum, "preconditioner": state["preconditioner"], STEP_COUNT: {"count": count}}
        return moved, slots
