"""What adapters of other libraries share: the library or a refusal, and metabench's inner optimisers in torch.optim's terms.

The libraries take an optimiser by torch.optim's name and settings; metabench's `SGD`, `Momentum`, `Adam` and `RMSprop` agree with it at
every step. A library is imported only when a method that needs it is called: it is optional.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from metabench.autodiff.optimisers import SGD, STEP_COUNT, Adam, Momentum, RMSprop, counts_steps, rate_at
from metabench.core.errors import Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import OptimiserState, Tree

Rates: TypeAlias = "float | torch.Tensor | Tree"
"""One learning rate for all parameters, a number or learned, or a learned one for each parameter tensor."""

WANTED = {"higher": ">=0.2.1", "torchopt": ">=0.7.3"}
"""The releases that the adapters support."""


def library(name: str) -> ModuleType:
    """Return the package `name` of WANTED; raise Unsupported with the line that installs it if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(
            f"the package '{name}' cannot be imported ({error}): pip install 'metabench[peers]' brings {name}{WANTED[name]}"
        ) from error


@dataclass(frozen=True)
class Recipe:
    """An inner optimiser in torch.optim's terms.

    Attributes:
        name: of the class in torch.optim.
        settings: its keyword arguments except the learning rate.
        rates: from the number of updates done in the window to the learning rate or rates, at the meta-parameters.
        varies: whether these differ from step to step.
        slots: from metabench's names of the state's slots to torch.optim's.
    """

    name: Literal["SGD", "Adam", "AdamW", "RMSprop"]
    settings: Mapping[str, Any]
    rates: Callable[[float | torch.Tensor], Rates]
    varies: bool
    slots: Mapping[str, str]

    @property
    def apart(self) -> bool:
        """Whether each parameter tensor has a learning rate of its own."""
        return isinstance(self.rates(0), dict)

    def rate(self, name: str, done: float | torch.Tensor = 0) -> float | torch.Tensor:
        """Return the learning rate of the parameter tensor `name` after `done` updates of the window."""
        rates = self.rates(done)
        return rates[name] if isinstance(rates, dict) else rates

    def counted(self, before: OptimiserState, updates: int) -> OptimiserState:
        """Return the slot of the step count after `updates`, where metabench's state has it and torch.optim's does not."""
        if STEP_COUNT not in before or STEP_COUNT in self.slots:
            return {}
        return {STEP_COUNT: {"count": before[STEP_COUNT]["count"].detach() + updates}}

    def parts(self, params: Tree) -> list[list[str]]:
        """Return the names of the parameters that one optimiser can move: all of them, or each alone if each has its own rate."""
        return [[name] for name in params] if self.apart else [list(params)]


def recipe(optimiser: InnerOptimiser, state: OptimiserState, meta: Tree, wanted_by: str) -> Recipe:
    """Return `optimiser` in torch.optim's terms, its learning rates at `meta` from the step that `state` counts.

    Raises:
        Unsupported: it is none of torch.optim's.
    """
    if not isinstance(optimiser, SGD | Momentum | Adam | RMSprop):
        raise Unsupported(
            f"the inner update is '{type(optimiser).__name__}', not one of torch.optim: {wanted_by} brings its own differentiable "
            "optimisers and takes no other"
        )
    rate, varies = optimiser.learning_rate, counts_steps(optimiser.learning_rate)
    if varies:
        first = state[STEP_COUNT]["count"].detach()

        def rates(done: float | torch.Tensor) -> Rates:
            return rate_at(rate, meta, first + done)
    else:
        value = rate_at(rate, meta, None)

        def rates(done: float | torch.Tensor) -> Rates:
            return value

    settings: dict[str, Any] = {"weight_decay": optimiser.weight_decay}
    if isinstance(optimiser, Momentum):
        settings |= {"momentum": optimiser.momentum, "nesterov": optimiser.nesterov}
        return Recipe("SGD", settings, rates, varies, {"momentum": "momentum_buffer"})
    if isinstance(optimiser, Adam):
        settings |= {"betas": optimiser.betas, "eps": optimiser.eps}
        slots = {"first": "exp_avg", "second": "exp_avg_sq", STEP_COUNT: "step"}
        # Without decay the two are the same, and AdamW is the one that libraries lack.
        return Recipe(
            "AdamW" if optimiser.decoupled and optimiser.weight_decay else "Adam", settings, rates, varies, slots
        )
    if isinstance(optimiser, RMSprop):
        settings |= {"alpha": optimiser.alpha, "eps": optimiser.eps}
        return Recipe("RMSprop", settings, rates, varies, {"second": "square_avg"})
    return Recipe("SGD", settings, rates, varies, {})
