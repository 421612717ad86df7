"""Problems in which an optimiser is learned, made small."""

from __future__ import annotations

from typing import Any

import torch
from bilevel import cached_data

from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.learned.problem import LearnedOptimiserProblem
from metabench.problems import problem

SMALL: dict[str, dict[str, Any]] = {
    "learned_quadratics": {"size": "d5", "tasks": 3, "test_tasks": 4},
    "learned_perceptron": {"size": "p7", "batch": 8, "longer": "5"},
    "neural_art": {"size": "random-32", "test_tasks": 1},
    "learned_convnet": {"size": "c4", "batch": 8},
}


def learned(
    name: str, *, inner_steps: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> LearnedOptimiserProblem:
    """Return a problem with episodes of four steps and an LSTM of one layer of three, unless `options` say otherwise."""
    kind = problem(name)
    assert issubclass(kind, LearnedOptimiserProblem)
    chosen = {"optimiser": "lstm, layers 1, hidden 3", "horizon": 4} | SMALL[name] | options
    size, dataset = chosen.pop("size"), chosen.pop("dataset", kind.card.datasets[0])
    return kind(
        Setting(
            size=size,
            options=build(kind.card.options, chosen, name),
            inner_steps=inner_steps,
            seed=seed,
            device=torch.device("cpu"),
            dtype=dtype,
            data=cached_data(dataset),
        )
    )
