"""Inner optimisers as pure functions, differentiable everywhere, equal to torch.optim at every step if gradients are well above eps.

A rate is a number, or learned: `PerParameter`, or a function of the meta-parameters and the step that returns a scalar tensor or a
tree; `scheduled` multiplies a rate by a schedule. The step counts the updates done before this one: 0 at the first. The state has a slot
for it where something reads it, in Adam and where a rate is scheduled or a function: elsewhere it would cost time and memory for nothing.
`leafwise` says that each parameter tensor's update does not depend on the others, so that a few can be updated at a time.
`translates` says that the update adds to the parameters a term of the gradients and slots alone: no parameter decays.
`minimised_decay` of an optimiser is the c for which training minimises f + c/2 |w|^2, or None where it minimises no such loss.
Square roots use v + eps^2 if v can be zero: sqrt has an infinite slope at 0, and 0 * inf is NaN in second order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from metabench.core import tree
from metabench.core.errors import MetabenchError, Unsupported
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.registry import Declarable, Registry, pick
from metabench.core.schedules import Constant, Schedule
from metabench.core.types import OptimiserState, Tree


@dataclass(frozen=True)
class PerParameter:
    """A rate learned for each parameter tensor: a function of the meta-parameter of the same name.

    An update of a few tensors then computes their own values alone.
    """

    of: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Scheduled:
    """A rate times the factor of a schedule at the step."""

    rate: Rate
    schedule: Schedule


Number: TypeAlias = "float | torch.Tensor"
"""A setting: a number, or a scalar tensor where it is learned."""

Rate: TypeAlias = "Number | PerParameter | Scheduled | Callable[[Tree, torch.Tensor], torch.Tensor | Tree]"


def scheduled(rate: Rate, schedule: Schedule) -> Rate:
    """Return the rate times the schedule's factor; the rate itself where that is constant."""
    return rate if isinstance(schedule, Constant) else Scheduled(rate, schedule)


STEP_COUNT = "step"
"""The slot that counts steps: the part of the state that never settles. Its one leaf is `count`."""


def translates(optimiser: InnerOptimiser) -> bool:
    """Return whether an update's increment does not depend on the parameters; False for an optimiser that does not say."""
    return bool(getattr(optimiser, "translates", False))


def decay_of(optimiser: InnerOptimiser) -> float:
    """Return the c for which training minimises f + c/2 |w|^2; 0 for an optimiser that does not say.

    Raises:
        Unsupported: the optimiser decays the parameters apart from the gradient, so its fixed points are not stationary for any such loss.
    """
    decay: float | None = getattr(optimiser, "minimised_decay", 0.0)
    if decay is None:
        raise Unsupported(
            "the inner optimiser's weight decay is decoupled from an adaptive step: its fixed points are not stationary for any loss"
        )
    return decay


def counts_steps(rate: Rate) -> bool:
    """Return whether a rate may differ from step to step, so that an optimiser with it counts them."""
    return isinstance(rate, Scheduled) or callable(rate)


def rate_at(rate: Rate, meta: Tree, step: torch.Tensor | None) -> float | torch.Tensor | Tree:
    """Return the value of a rate: one for all parameters, or one for each by name. Only one that `counts_steps` reads `step`."""
    value = _at(rate, meta, step)
    return tree.tree_map(value.of, meta) if isinstance(value, PerParameter) else value


def _at(rate: Rate, meta: Tree, step: torch.Tensor | None) -> float | torch.Tensor | Tree | PerParameter:
    """Return a rate at a step. `PerParameter` stays a function: an update needs the value of one tensor at a time."""
    if isinstance(rate, Scheduled):
        assert step is not None
        value, factor = _at(rate.rate, meta, step), rate.schedule(step)
        if isinstance(value, PerParameter):
            of = value.of
            return PerParameter(lambda leaf: factor * of(leaf))
        return tree.scale(factor, value) if isinstance(value, dict) else factor * value
    if callable(rate):
        assert step is not None
        return rate(meta, step)
    return rate


def _times(rate: Rate, meta: Tree, direction: Tree, step: torch.Tensor | None) -> Tree:
    """Return rate(meta, step) * direction."""
    value = _at(rate, meta, step)
    if isinstance(value, PerParameter):
        return {name: value.of(meta[name]) * leaf for name, leaf in direction.items()}
    if isinstance(value, dict):
        return tree.tree_map(lambda a, b: b * a, direction, value)
    return tree.scale(value, direction)


def zero_count(params: Tree) -> Tree:
    """Return the slot of a step count of zero."""
    like = next(iter(params.values()))
    return {"count": torch.zeros((), dtype=like.dtype, device=like.device)}


def _first_count(rate: Rate, params: Tree) -> OptimiserState:
    """Return the slot of the step count where the rate reads it."""
    return {STEP_COUNT: zero_count(params)} if counts_steps(rate) else {}


def counted(state: OptimiserState) -> tuple[torch.Tensor | None, OptimiserState]:
    """Return the step, and the slot of the next one; None and nothing where steps are not counted.

    The step is a constant to every derivative: nothing learned moves it, and at step 0 its tangent of zero would make NaN of the infinite
    slope of a square root.
    """
    if STEP_COUNT not in state:
        return None, {}
    count = state[STEP_COUNT]["count"]
    return count.detach(), {STEP_COUNT: {"count": count + 1}}


@dataclass(frozen=True)
class SGD:
    """w <- w - lr (g + weight_decay w)."""

    learning_rate: Rate
    weight_decay: float = 0.0

    leafwise: ClassVar[bool] = True

    @property
    def translates(self) -> bool:
        """Whether the update ignores the parameters' own values."""
        return not self.weight_decay

    @property
    def minimised_decay(self) -> float:
        """Return the c for which training minimises f + c/2 |w|^2."""
        return self.weight_decay

    def init(self, params: Tree) -> OptimiserState:
        """Return the step count of a rate that reads it, and nothing else."""
        return _first_count(self.learning_rate, params)

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and step count."""
        step, after = counted(state)
        if self.weight_decay:
            gradient = tree.add_scaled(gradient, self.weight_decay, params)
        return tree.subtract(params, _times(self.learning_rate, meta, gradient, step)), after


@dataclass(frozen=True)
class Momentum:
    """b <- mu b + g; w <- w - lr b, or w - lr (g + mu b) with `nesterov`. Polyak 1964; Sutskever et al. 2013."""

    learning_rate: Rate
    momentum: Number = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    leafwise: ClassVar[bool] = True

    @property
    def translates(self) -> bool:
        """Whether the update ignores the parameters' own values."""
        return not self.weight_decay

    @property
    def minimised_decay(self) -> float:
        """Return the c for which training minimises f + c/2 |w|^2."""
        return self.weight_decay

    def init(self, params: Tree) -> OptimiserState:
        """Return a zero buffer, and the step count of a rate that reads it."""
        return {"momentum": tree.zeros_like(params), **_first_count(self.learning_rate, params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        step, after = counted(state)
        if self.weight_decay:
            gradient = tree.add_scaled(gradient, self.weight_decay, params)
        buffer = tree.add_scaled(gradient, self.momentum, state["momentum"])
        direction = tree.add_scaled(gradient, self.momentum, buffer) if self.nesterov else buffer
        return tree.subtract(params, _times(self.learning_rate, meta, direction, step)), {"momentum": buffer, **after}


@dataclass(frozen=True)
class Adam:
    """Kingma & Ba 2015; with `decoupled`, AdamW: Loshchilov & Hutter 2019.

    The denominator is sqrt(v_hat + eps^2) + eps: torch's is sqrt(v_hat) + eps. They differ by less than eps, which is
    negligible for a gradient well above it, but halves the step of one as small as eps.
    """

    learning_rate: Rate
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    leafwise: ClassVar[bool] = True

    @property
    def translates(self) -> bool:
        """Whether the update ignores the parameters' own values."""
        return not self.weight_decay

    @property
    def minimised_decay(self) -> float | None:
        """Return the c for which training minimises f + c/2 |w|^2; None with decoupled decay, which no gradient of a loss balances."""
        return None if self.decoupled and self.weight_decay else self.weight_decay

    def init(self, params: Tree) -> OptimiserState:
        """Return zero moments and a step count of zero."""
        return {"first": tree.zeros_like(params), "second": tree.zeros_like(params), STEP_COUNT: zero_count(params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        step, after = counted(state)
        if self.weight_decay and not self.decoupled:
            gradient = tree.add_scaled(gradient, self.weight_decay, params)
        beta1, beta2 = self.betas
        count = after[STEP_COUNT]["count"]
        first = tree.tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, state["first"], gradient)
        second = tree.tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state["second"], gradient)
        correction1, correction2 = 1 - beta1**count, 1 - beta2**count
        direction = tree.tree_map(
            lambda m, v: (m / correction1) / ((v / correction2 + self.eps**2).sqrt() + self.eps), first, second
        )
        if self.weight_decay and self.decoupled:
            direction = tree.add_scaled(direction, self.weight_decay, params)
        moved = tree.subtract(params, _times(self.learning_rate, meta, direction, step))
        return moved, {"first": first, "second": second, **after}


@dataclass(frozen=True)
class RMSprop:
    """v <- alpha v + (1 - alpha) g^2; w <- w - lr g / (sqrt(v + eps^2) + eps). Tieleman & Hinton 2012."""

    learning_rate: Rate
    alpha: Number = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    leafwise: ClassVar[bool] = True

    @property
    def translates(self) -> bool:
        """Whether the update ignores the parameters' own values."""
        return not self.weight_decay

    @property
    def minimised_decay(self) -> float:
        """Return the c for which training minimises f + c/2 |w|^2."""
        return self.weight_decay

    def init(self, params: Tree) -> OptimiserState:
        """Return zero second moments, and the step count of a rate that reads it."""
        return {"second": tree.zeros_like(params), **_first_count(self.learning_rate, params)}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        step, after = counted(state)
        if self.weight_decay:
            gradient = tree.add_scaled(gradient, self.weight_decay, params)
        second = tree.tree_map(lambda v, g: self.alpha * v + (1 - self.alpha) * g * g, state["second"], gradient)
        direction = tree.tree_map(lambda g, v: g / ((v + self.eps**2).sqrt() + self.eps), gradient, second)
        return tree.subtract(params, _times(self.learning_rate, meta, direction, step)), {"second": second, **after}


@dataclass(frozen=True)
class NamedOptimiser(Declarable):
    """An inner optimiser that problems offer by name.

    Attributes:
        name: the word in a problem's options.
        title: one line for listings.
        make: from a learning rate and a weight decay to the optimiser.
        order: its place in listings.
    """

    name: str
    title: str
    make: Callable[[Rate, float], InnerOptimiser]
    order: float = math.inf

    @property
    def module(self) -> str:
        """The module that declares it."""
        return self.make.__module__


OPTIMISERS = (
    NamedOptimiser("sgd", "gradient descent", lambda rate, decay: SGD(rate, decay), 0),
    NamedOptimiser("momentum", "heavy-ball momentum", lambda rate, decay: Momentum(rate, weight_decay=decay), 1),
    NamedOptimiser(
        "nesterov", "Nesterov momentum", lambda rate, decay: Momentum(rate, nesterov=True, weight_decay=decay), 2
    ),
    NamedOptimiser("adam", "Adam", lambda rate, decay: Adam(rate, weight_decay=decay), 3),
    NamedOptimiser("adamw", "AdamW", lambda rate, decay: Adam(rate, weight_decay=decay, decoupled=True), 4),
    NamedOptimiser("rmsprop", "RMSprop", lambda rate, decay: RMSprop(rate, weight_decay=decay), 5),
)


def check_optimiser(optimiser: NamedOptimiser, name: str) -> None:
    """Raise MetabenchError if an inner optimiser cannot be made, or lacks what a step needs."""
    made = optimiser.make(0.1, 0.0)
    for part in ("init", "update"):
        if not callable(getattr(made, part, None)):
            raise MetabenchError(f"inner optimiser '{name}': it makes a {type(made).__name__}, which lacks {part}()")


INNER_OPTIMISERS: Registry[NamedOptimiser] = Registry(
    sort="inner optimiser",
    kind=NamedOptimiser,
    package=__name__,
    group="metabench.optimisers",
    name=lambda optimiser, stem: optimiser.name,
    check=check_optimiser,
    hint="name a metabench.autodiff.optimisers.NamedOptimiser",
)


def inner_optimiser(name: str, learning_rate: Rate, weight_decay: float = 0.0) -> InnerOptimiser:
    """Return the inner optimiser named in INNER_OPTIMISERS, with other settings at their defaults; plugins loaded so far may add some."""
    return pick("inner optimiser", name, INNER_OPTIMISERS.loaded()).make(learning_rate, weight_decay)
