"""Hand-made optimisers whose settings are learned."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.autodiff.optimisers import SGD
from metabench.core import option
from metabench.core.lazy import torch
from metabench.core.problem import InnerOptimiser
from metabench.core.types import Tree
from metabench.learned.declared import LearnedOptimiser


@dataclass(frozen=True)
class Options:
    """Options of a hand-made optimiser."""

    rate: float = option(0.01, above=0, help="initial learning rate")


def _sgd(options: Options) -> InnerOptimiser:
    return SGD(lambda meta, step: meta["log_rate"].exp())


def _draw(options: Options, stream: torch.Generator) -> Tree:
    return {"log_rate": torch.tensor(options.rate, dtype=torch.float64).log()}


HAND_MADE = (LearnedOptimiser("sgd", "SGD with a learned rate", _sgd, _draw, "andrychowicz2016learning", Options, 10),)
