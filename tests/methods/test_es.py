"""ES equals its formula on fixed noise, wherever meta-parameters enter; its mean is the gradient of the smoothed objective.

Means are judged by a z-test: five standard errors, which a correct estimator misses with probability 6e-7. Streams are seeded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bilevel import call, checkpoint, make_problem, objective, relative_error
from small_problems import (
    LearnedStart,
    LearnedUpdate,
    LearningRates,
    OuterOnly,
    OuterPenalty,
    SummedOuter,
    Tanh,
    WeightedExamples,
)

from metabench.core import tree
from metabench.core.randomness import generator, perturbation
from metabench.measure.memory.meter import measure_memory

STANDARD_ERRORS = 5


@pytest.mark.parametrize(
    "kind", [Tanh, LearningRates, SummedOuter, LearnedUpdate, LearnedStart, OuterPenalty, OuterOnly, WeightedExamples]
)
def test_it_is_the_mean_of_antithetic_differences_wherever_meta_parameters_enter(kind: Any) -> None:
    problem = kind(inner_steps=3)
    state, meta, window = checkpoint(problem)
    found = call("es", problem, state, meta, window, seed=5, pairs=3, sigma=0.2)
    value, stream = objective(problem, state, window), generator(5, "test")
    terms = []
    for _ in range(3):
        noise = perturbation(meta, "gaussian", stream)
        rise = value(tree.add_scaled(meta, 0.2, noise)) - value(tree.add_scaled(meta, -0.2, noise))
        terms.append(tree.scale(rise / (2 * 0.2), noise))
    assert relative_error(found.meta, tree.mean(terms)) <= 1e-12
    flat = torch.stack([tree.flatten(term) for term in terms])
    expected = float((flat.var(0).sum() / 3).sqrt() / flat.mean(0).norm())
    assert found.diagnostics["spread"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_its_mean_is_the_gradient_of_the_smoothed_objective(sigma: float) -> None:
    problem = make_problem("toy_1d", inner_steps=3)
    at = checkpoint(problem)
    x, penalty = float(at[0].params["x"]), float(at[1]["l"])
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    # A complex step gives the derivative to rounding; the objective is a polynomial of degree 6 in l, so that the quadrature is exact.
    moved = penalty + sigma * nodes + 1e-30j
    trained = np.full_like(moved, x)
    for _ in range(3):
        trained = trained - 0.1 * (2 * (trained - 1) + 2 * moved * trained)
    expected = float((weights @ (trained - 0.5) ** 2).imag / 1e-30 / weights.sum())
    found = torch.tensor([float(call("es", problem, *at, seed=i, pairs=2, sigma=sigma).meta["l"]) for i in range(800)])
    error = float(found.std()) / 800**0.5
    assert abs(float(found.mean()) - expected) <= STANDARD_ERRORS * error
    # The bound can tell: neither zero nor half the gradient passes it.
    assert abs(expected) > 2 * STANDARD_ERRORS * error
    if sigma == 1.0:  # and there the smoothed gradient is not that at the centre
        assert abs(float(call("unrolled", problem, *at).meta["l"]) - expected) > STANDARD_ERRORS * error


def test_one_pair_has_no_spread() -> None:
    problem = Tanh()
    assert call("es", problem, *checkpoint(problem), pairs=1).diagnostics == {}


@pytest.mark.parametrize("name", ["es", "pes", "f2sa", "bome"])
def test_memory_does_not_grow_with_the_number_of_inner_steps(name: str) -> None:
    peaks = []
    for steps in (2, 30):
        problem = make_problem("regularisation", inner_steps=steps)
        at = checkpoint(problem, windows_before=0)
        call(name, problem, *at)
        peaks.append(
            measure_memory(lambda at=at, p=problem: call(name, p, *at), [at[0].params, at[1]], "cpu")[1].dynamic_bytes
        )  # type: ignore[misc]
    assert peaks[1] <= 1.01 * peaks[0]
