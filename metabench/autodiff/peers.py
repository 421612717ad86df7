"""What adapters of other libraries share: the library or a refusal, and metabench's inner optimisers in torch.optim's terms.

The libraries take an optimiser by torch.optim's name and settings; metabench's `SGD`, `Momentum`, `Adam` and `RMSprop` agree with it at
every step. A library is imported only when a method that needs it is called: it is optional.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from metabench.autodiff.optimisers import SGD, STEP_COUNT, Adam, Momentum, RMSprop, counts_steps, rate_at
from metabench.core.errors import Absent, Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import InnerState, OptimiserState, Tree

Rates: TypeAlias = "float | torch.Tensor | Tree"
"""One learning rate for all parameters, a number or learned, or a learned one for each parameter tensor."""

WANTED = {"higher": ">=0.2.1", "torchopt": ">=0.7.3"}
"""The releases that the adapters support, of what the extra `peers` brings."""

PINNED = {"boat_torch": ("boat-torch", "1.1.1"), "hippotrainer": ("hippotrainer", "1.0.0")}
"""By package: distribution and release of libraries that no extra brings. The adapters say what this release computes."""


def library(name: str) -> ModuleType:
    """Return the package `name` of WANTED; raise Absent with the line that installs it if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(
            f"the package '{name}' cannot be imported ({error}): pip install 'metabench[peers]' brings {name}{WANTED[name]}"
        ) from error


def pinned(name: str) -> ModuleType:
    """Return the package `name` of PINNED; raise Absent with the line that installs it if it is not there in that very release."""
    distribution, release = PINNED[name]
    install = f"pip install --no-deps {distribution}=={release}"
    try:
        # Here and not above: importing it adds to the time of `metabench list`.
        from importlib import metadata

        package = importlib.import_module(name)
        found = metadata.version(distribution)
    except ImportError as error:
        raise Absent(
            f"the package '{name}' cannot be imported ({error}): {install} brings it without what it pins"
        ) from error
    if found != release:
        raise Absent(f"{distribution} {found} is installed, and what {release} computes is known: {install}")
    return package


ITS_OWN = ("to not have been used in the graph", "view size is not compatible", "slice indices must be integers")
"""Of messages that libraries cause: by a loss that does not use a parameter, and by tensors without dimensions, or strided."""


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn what a library raises of its own doing into Unsupported, with its words."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        if not any(words in str(error) for words in ITS_OWN):
            raise
        raise Unsupported(f"{name} raises {type(error).__name__}: {error}") from error


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


def tree_module(params: Tree) -> torch.nn.Module:
    """Return a module that holds the parameters and whose forward pass returns them as a tree. Names may contain dots."""

    class TreeModule(torch.nn.Module):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            self.names = names

        def forward(self) -> Tree:
            return {name: getattr(self, f"leaf{place}") for place, name in enumerate(self.names)}

    module = TreeModule(list(params))
    for place, leaf in enumerate(params.values()):
        module.register_parameter(f"leaf{place}", torch.nn.Parameter(leaf.detach()))
    return module


def torch_optimiser(
    words: Recipe, module: torch.nn.Module, state: InnerState, rate: float = 0.0
) -> torch.optim.Optimizer:
    """Return the optimiser of torch.optim that moves a module made of the state's parameters, with the state's slots.

    A rate per tensor needs a parameter group per tensor.
    """
    leaves = dict(zip(state.params, module.parameters(), strict=True))
    groups = [{"params": [leaves[name] for name in part]} for part in words.parts(state.params)]
    optimiser: torch.optim.Optimizer = getattr(torch.optim, words.name)(groups, lr=rate, **words.settings)
    for name, leaf in leaves.items():
        slots: dict[str, Any] = {"step": torch.zeros(())} if words.name == "RMSprop" else {}
        for ours, theirs in words.slots.items():
            if ours == STEP_COUNT:
                slots[theirs] = state.optimiser[STEP_COUNT]["count"].detach().clone()
            else:
                slots[theirs] = state.optimiser[ours][name].detach().clone()
        if slots:
            optimiser.state[leaf] = slots
    return optimiser
