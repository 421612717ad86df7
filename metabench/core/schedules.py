"""Schedules: factors on a learning rate, as pure functions of the step.

A schedule takes the step, a scalar tensor that counts the updates done before this one (0 at the first), and returns a scalar tensor of
the same dtype and device. It is differentiable in the step and has no control flow that depends on it, so that it can be traced.

`str` writes a schedule as suites and rows do, and `read_schedule` reads it back: 'constant', 'cosine 100 to 0.1',
'piecewise 30:0.1 60:0.01', 'power -0.5', 'warm-up 10, cosine 100'.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch

Schedule: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""From the step to a factor on the learning rate; any function will do, those below have a text form, too."""


@dataclass(frozen=True)
class Constant:
    """1 at every step."""

    def __call__(self, step: torch.Tensor) -> torch.Tensor:
        """Return 1."""
        return torch.ones_like(step)

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 at the first step to `final` after `steps`, and `final` from then on. Loshchilov & Hutter 2017, equation 5.

    Raises:
        MetabenchError: `steps` is not positive, or `final` is negative.
    """

    steps: float
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_steps("cosine", self.steps)
        _check_factor("cosine", self.final)

    def __call__(self, step: torch.Tensor) -> torch.Tensor:
        """Return the factor."""
        wave = (1 + torch.cos(math.pi * (step / self.steps).clamp(max=1))) / 2
        return self.final + (1 - self.final) * wave

    def __str__(self) -> str:
        return f"cosine {_number(self.steps)}" + (f" to {_number(self.final)}" if self.final else "")


@dataclass(frozen=True)
class Piecewise:
    """1 at first, and `factors[i]` from step `boundaries[i]` on.

    Raises:
        MetabenchError: a boundary is not positive or not above the one before it, or has no factor, or a factor is negative.
    """

    boundaries: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.factors):
            counts = f"{len(self.boundaries)} boundaries and {len(self.factors)} factors"
            raise MetabenchError(f"a piecewise schedule has {counts}, expected one factor for each boundary")
        for before, boundary in zip((0.0, *self.boundaries), self.boundaries, strict=False):
            if not before < boundary < math.inf:
                raise MetabenchError(
                    f"the boundary {_number(boundary)} of a piecewise schedule follows {_number(before)}: they have to increase from 0"
                )
        for factor in self.factors:
            _check_factor("piecewise", factor)

    def __call__(self, step: torch.Tensor) -> torch.Tensor:
        """Return the factor."""
        value = torch.ones_like(step)
        for boundary, factor in zip(self.boundaries, self.factors, strict=True):
            value = torch.where(step >= boundary, torch.full_like(step, factor), value)
        return value

    def __str__(self) -> str:
        pairs = zip(self.boundaries, self.factors, strict=True)
        return " ".join(("piecewise", *(f"{_number(boundary)}:{_number(factor)}" for boundary, factor in pairs)))


@dataclass(frozen=True)
class Power:
    """(1 + step)^exponent: a rate that falls with a negative exponent, a penalty that grows with a positive one.

    Raises:
        MetabenchError: the exponent is not finite.
    """

    exponent: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.exponent):
            raise MetabenchError(f"a power schedule with the exponent {self.exponent}: expected a finite number")

    def __call__(self, step: torch.Tensor) -> torch.Tensor:
        """Return the factor."""
        return (1 + step) ** self.exponent

    def __str__(self) -> str:
        return f"power {_number(self.exponent)}"


@dataclass(frozen=True)
class WarmUp:
    """A linear rise by 1 / `steps` a step, from 1 / `steps` at the first one; then the schedule `then`, whose steps count from there.

    Raises:
        MetabenchError: `steps` is not positive.
    """

    steps: float
    then: Schedule = field(default_factory=Constant)

    def __post_init__(self) -> None:
        _check_steps("warm-up", self.steps)

    def __call__(self, step: torch.Tensor) -> torch.Tensor:
        """Return the factor."""
        # `then` is evaluated at every step: before its own first one, at that.
        return torch.where(step < self.steps, (step + 1) / self.steps, self.then((step - self.steps).clamp(min=0)))

    def __str__(self) -> str:
        warm_up = f"warm-up {_number(self.steps)}"
        return warm_up if self.then == Constant() else f"{warm_up}, {schedule_text(self.then)}"


SCHEDULES = ("constant", "cosine", "piecewise", "power", "warm-up")
"""The first words of schedules as texts."""


def schedule_text(schedule: object) -> str:
    """Return the text of a schedule: what `read_schedule` reads, or the name of a function of the user's own."""
    if isinstance(schedule, Constant | Cosine | Piecewise | Power | WarmUp):
        return str(schedule)
    return getattr(schedule, "__qualname__", type(schedule).__qualname__)


def read_schedule(text: str) -> Schedule:
    """Return the schedule that a text names, as `str` writes it.

    Raises:
        MetabenchError: there is no such schedule, or its numbers are not what it takes.
    """
    first, comma, rest = text.partition(",")
    name, *words = first.split() or [""]
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    if comma and name != "warm-up":
        raise MetabenchError(
            f"the schedule '{text}' goes on after '{first}': only a warm-up is followed by another schedule"
        )
    said = " ".join(words)
    if name == "constant" and not words:
        return Constant()
    if name == "cosine" and (match := re.fullmatch(rf"({_NUMBER})(?: to ({_NUMBER}))?", said)):
        return Cosine(float(match[1]), float(match[2] or 0))
    if name == "piecewise" and words and all(re.fullmatch(rf"{_NUMBER}:{_NUMBER}", word) for word in words):
        boundaries, factors = zip(*(map(float, word.split(":")) for word in words), strict=True)
        return Piecewise(boundaries, factors)
    if name == "power" and re.fullmatch(_NUMBER, said):
        return Power(float(said))
    if name == "warm-up" and re.fullmatch(_NUMBER, said):
        return WarmUp(float(said), read_schedule(rest)) if comma else WarmUp(float(said))
    raise MetabenchError(f"the schedule '{first.strip()}' cannot be read: expected '{_FORMS[name]}'")


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_FORMS = {
    "constant": "constant",
    "cosine": "cosine STEPS' or 'cosine STEPS to FACTOR",
    "piecewise": "piecewise STEP:FACTOR STEP:FACTOR ...",
    "power": "power EXPONENT",
    "warm-up": "warm-up STEPS' or 'warm-up STEPS, SCHEDULE",
}


def _number(value: float) -> str:
    """Return the shortest text that reads back as the number."""
    return repr(float(value)).removesuffix(".0")


def _check_steps(name: str, steps: float) -> None:
    if not 0 < steps < math.inf:
        raise MetabenchError(f"a {name} schedule over {_number(steps)} steps: expected a number above 0")


def _check_factor(name: str, factor: float) -> None:
    if not 0 <= factor < math.inf:
        raise MetabenchError(
            f"a {name} schedule with the factor {_number(factor)}: expected a finite number of at least 0"
        )
