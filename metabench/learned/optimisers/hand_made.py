"""Hand-made optimisers whose settings are learned, each as its logarithm: the rate, and how much of a moving average every step forgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from metabench.autodiff.optimisers import SGD, Adam, Momentum, RMSprop
from metabench.core import option
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import OptimiserState, Tree
from metabench.learned.declared import LearnedOptimiser

Settings: TypeAlias = "dict[str, torch.Tensor]"


@dataclass(frozen=True)
class Options:
    """Options of `sgd`."""

    rate: float = option(0.01, above=0, help="initial learning rate")


@dataclass(frozen=True)
class MomentumOptions(Options):
    """Options of `momentum` and `nesterov`."""

    momentum: float = option(0.9, minimum=0, maximum=0.999999, help="initial momentum")


@dataclass(frozen=True)
class RMSpropOptions(Options):
    """Options of `rmsprop`."""

    squares: float = option(0.99, minimum=0, maximum=0.999999, help="initial decay of the mean square")


@dataclass(frozen=True)
class AdamOptions(MomentumOptions):
    """Options of `adam`."""

    squares: float = option(0.999, minimum=0, maximum=0.999999, help="initial decay of the mean square")


@dataclass(frozen=True)
class HandMade:
    """An optimiser made anew at every step from its settings: the exponentials of the meta-parameters.

    Meta-parameters: `log_rate`, and `log_forgotten_...` of each moving average, 1 minus its decay: 'momentum' or 'squares'.
    """

    made: Callable[[Settings], InnerOptimiser]
    like: InnerOptimiser

    leafwise: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = True
    translates: ClassVar[bool] = True
    numbers_per_coordinate: ClassVar[int] = 10

    def init(self, params: Tree) -> OptimiserState:
        """Return the state before the first step."""
        return self.like.init(params)

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        """Return the next parameters and slots."""
        settings = {"rate": meta["log_rate"].exp()}
        settings |= {
            name.removeprefix(FORGOTTEN): 1 - leaf.exp() for name, leaf in meta.items() if name.startswith(FORGOTTEN)
        }
        return self.made(settings).update(gradient, params, state, meta)


FORGOTTEN = "log_forgotten_"


def _draw(options: Options, stream: torch.Generator) -> Tree:
    """Return the logarithms of the settings with which learning starts."""
    decays = {name: getattr(options, name) for name in ("momentum", "squares") if hasattr(options, name)}
    values = {"log_rate": options.rate} | {f"{FORGOTTEN}{name}": 1 - decay for name, decay in decays.items()}
    return {name: torch.tensor(value, dtype=torch.float64).log() for name, value in values.items()}


def _declare(
    name: str, title: str, made: Callable[[Settings], InnerOptimiser], like: InnerOptimiser, options: type, order: int
) -> LearnedOptimiser:
    def make(chosen: Any) -> InnerOptimiser:
        return HandMade(made, like)

    return LearnedOptimiser(name, title, make, _draw, "andrychowicz2016learning", options, order)


HAND_MADE = (
    _declare("sgd", "gradient descent with a learned rate", lambda at: SGD(at["rate"]), SGD(0.0), Options, 10),
    _declare(
        "momentum",
        "heavy-ball momentum with learned rate and momentum",
        lambda at: Momentum(at["rate"], at["momentum"]),
        Momentum(0.0),
        MomentumOptions,
        11,
    ),
    _declare(
        "nesterov",
        "Nesterov momentum with learned rate and momentum",
        lambda at: Momentum(at["rate"], at["momentum"], nesterov=True),
        Momentum(0.0),
        MomentumOptions,
        12,
    ),
    _declare(
        "rmsprop",
        "RMSprop with learned rate and decay",
        lambda at: RMSprop(at["rate"], at["squares"]),
        RMSprop(0.0),
        RMSpropOptions,
        13,
    ),
    _declare(
        "adam",
        "Adam with learned rate and decays",
        lambda at: Adam(at["rate"], (at["momentum"], at["squares"])),
        Adam(0.0),
        AdamOptions,
        14,
    ),
)
