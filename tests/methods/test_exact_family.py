"""The unrolled family is exact: it equals finite differences of the whole window, and its members equal each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import (
    EXACT_FAMILY,
    OPTIMISERS,
    UNROLLED_FAMILY,
    assert_derivative,
    call,
    checkpoint,
    make_problem,
    objective,
    relative_error,
)

AGREEMENT = 1e-10
REVERSE = [member for member in EXACT_FAMILY if member[0] != "forward"]
FAMILY = pytest.mark.parametrize(("name", "options"), UNROLLED_FAMILY, ids=lambda value: str(value))
WHOLE_FAMILY = pytest.mark.parametrize(("name", "options"), EXACT_FAMILY, ids=lambda value: str(value))


@WHOLE_FAMILY
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
def test_on_the_toy_they_equal_finite_differences(
    name: str, options: dict[str, Any], optimiser: str, steps: int
) -> None:
    problem = make_problem("toy_1d", inner_steps=steps, optimiser=optimiser)
    state, meta, window = checkpoint(problem)
    found = call(name, problem, state, meta, window, **options)
    assert_derivative(found.meta, objective(problem, state, window), meta, count=0)


@FAMILY
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_on_regularisation_they_equal_finite_differences(name: str, options: dict[str, Any], optimiser: str) -> None:
    rate = 0.5 if optimiser in ("sgd", "momentum", "nesterov") else 0.05
    for steps in (1, 4, 7):
        problem = make_problem("regularisation", inner_steps=steps, optimiser=optimiser, learning_rate=rate, start=-2.0)
        state, meta, window = checkpoint(problem)
        found = call(name, problem, state, meta, window, **options)
        assert_derivative(found.meta, objective(problem, state, window), meta)


@FAMILY
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
def test_on_label_noise_they_equal_finite_differences_where_the_weights_follow_the_losses(
    name: str, options: dict[str, Any], optimiser: str
) -> None:
    problem = make_problem(
        "label_noise", dataset="digits", size="mlp64", inner_steps=3, optimiser=optimiser, detach=False
    )
    state, meta, window = checkpoint(problem)
    found = call(name, problem, state, meta, window, **options)
    # Narrow: a ReLU of the network or of V must not change sides between the points.
    assert_derivative(found.meta, objective(problem, state, window), meta, width=1e-5, tolerance=1e-6)


@FAMILY
def test_on_label_noise_with_a_stop_gradient_they_equal_finite_differences_of_one_step(
    name: str, options: dict[str, Any]
) -> None:
    problem = make_problem("label_noise", dataset="digits", size="conv8", inner_steps=1, detach=True)
    state, meta, window = checkpoint(problem)
    found = call(name, problem, state, meta, window, **options)
    assert_derivative(found.meta, objective(problem, state, window), meta, width=1e-5, tolerance=1e-6)


def agree(problem: Any) -> None:
    state, meta, window = checkpoint(problem)
    first, *others = [call(name, problem, state, meta, window, **options) for name, options in REVERSE]
    for other in others:
        assert relative_error(other.meta, first.meta) <= AGREEMENT
        assert relative_error(other.state.params, first.state.params) <= AGREEMENT
        assert other.outer_loss == pytest.approx(first.outer_loss, rel=AGREEMENT)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 9, 11, 13])
def test_they_agree_for_every_number_of_steps(steps: int, optimiser: str) -> None:
    agree(make_problem("toy_1d", inner_steps=steps, optimiser=optimiser))
    agree(make_problem("regularisation", inner_steps=steps, optimiser=optimiser, learning_rate=0.05))


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist_10k"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_they_agree_on_regularisation_on_every_data_set_that_ships(dataset: str, optimiser: str) -> None:
    agree(make_problem("regularisation", dataset=dataset, inner_steps=5, optimiser=optimiser, learning_rate=0.05))


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("noise", ["flip", "uniform"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_they_agree_on_label_noise_with_every_optimiser(optimiser: str, noise: str, detach: bool) -> None:
    rate = 0.02 if optimiser in ("sgd", "momentum", "nesterov") else 0.001
    options = {"optimiser": optimiser, "learning_rate": rate, "noise": noise, "detach": detach}
    agree(make_problem("label_noise", dataset="digits", size="mlp64", inner_steps=5, **options))


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("size", ["mlp64", "mlp256", "mlp1024", "mlp512x3", "conv8", "conv16", "conv32"])
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist_10k"])
def test_they_agree_on_label_noise_with_every_network(dataset: str, size: str, detach: bool) -> None:
    steps = 2 if dataset == "fashion_mnist_10k" else 3
    agree(make_problem("label_noise", dataset=dataset, size=size, inner_steps=steps, detach=detach))


@WHOLE_FAMILY
def test_in_float32_they_are_the_float64_hypergradient_rounded(name: str, options: dict[str, Any]) -> None:
    found = {}
    for dtype in (torch.float32, torch.float64):
        problem = make_problem("regularisation", inner_steps=5, dtype=dtype)
        found[dtype] = call(name, problem, *checkpoint(problem), **options).meta
    rounded = {leaf: value.double() for leaf, value in found[torch.float32].items()}
    assert relative_error(rounded, found[torch.float64]) <= 1e-4
    assert all(value.dtype == torch.float32 for value in found[torch.float32].values())
