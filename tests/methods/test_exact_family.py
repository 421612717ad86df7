"""The unrolled family is exact: unrolling equals finite differences of the whole window, and the other members equal unrolling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import (
    EXACT_FAMILY,
    OPTIMISERS,
    assert_derivative,
    call,
    checkpoint,
    make_problem,
    objective,
    relative_error,
)
from small_problems import LearnedSchedule, ScheduledRates, Tanh

AGREEMENT = 1e-10
REVERSE = [member for member in EXACT_FAMILY if member[0] != "forward"]
WHOLE_FAMILY = pytest.mark.parametrize(("name", "options"), EXACT_FAMILY, ids=lambda value: str(value))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
def test_on_the_toy_unrolling_equals_finite_differences(optimiser: str, steps: int) -> None:
    problem = make_problem("toy_1d", inner_steps=steps, optimiser=optimiser)
    state, meta, window = checkpoint(problem)
    found = call("unrolled", problem, state, meta, window)
    assert_derivative(found.meta, objective(problem, state, window), meta, count=0)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_on_regularisation_unrolling_equals_finite_differences(optimiser: str) -> None:
    rate = 0.5 if optimiser in ("sgd", "momentum", "nesterov") else 0.05
    for steps in (1, 4, 7):
        problem = make_problem("regularisation", inner_steps=steps, optimiser=optimiser, learning_rate=rate, start=-2.0)
        state, meta, window = checkpoint(problem)
        found = call("unrolled", problem, state, meta, window)
        assert_derivative(found.meta, objective(problem, state, window), meta)


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
def test_on_label_noise_unrolling_equals_finite_differences_where_the_weights_follow_the_losses(optimiser: str) -> None:
    problem = make_problem(
        "label_noise", dataset="digits", size="mlp64", inner_steps=3, optimiser=optimiser, detach=False
    )
    state, meta, window = checkpoint(problem)
    found = call("unrolled", problem, state, meta, window)
    # Narrow: a ReLU of the network or of V must not change sides between the points.
    assert_derivative(found.meta, objective(problem, state, window), meta, width=1e-5, tolerance=1e-6)


def test_on_label_noise_with_a_stop_gradient_unrolling_equals_finite_differences_of_one_step() -> None:
    problem = make_problem("label_noise", dataset="digits", size="conv8", inner_steps=1, detach=True)
    state, meta, window = checkpoint(problem)
    found = call("unrolled", problem, state, meta, window)
    assert_derivative(found.meta, objective(problem, state, window), meta, width=1e-5, tolerance=1e-6)


@pytest.mark.parametrize("kind", [LearnedSchedule, ScheduledRates], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_through_a_schedule_unrolling_equals_finite_differences_and_the_family_agrees(
    optimiser: str, kind: type[Tanh]
) -> None:
    problem = kind(optimiser, inner_steps=4)
    state, meta, window = checkpoint(problem)
    found = call("unrolled", problem, state, meta, window)
    assert_derivative(found.meta, objective(problem, state, window), meta)
    agree(problem, EXACT_FAMILY)


def agree(problem: Any, family: Any = REVERSE) -> None:
    """Assert that the members of a family, the first of which is `unrolled`, give the same."""
    state, meta, window = checkpoint(problem)
    first, *others = [call(name, problem, state, meta, window, **options) for name, options in family]
    for other in others:
        assert relative_error(other.meta, first.meta) <= AGREEMENT
        assert relative_error(other.state.params, first.state.params) <= AGREEMENT
        assert other.outer_loss == pytest.approx(first.outer_loss, rel=AGREEMENT)


@pytest.mark.parametrize(("place", "steps"), enumerate((1, 2, 3, 4, 5, 7, 9, 11, 13)))
def test_they_agree_for_every_number_of_steps(place: int, steps: int) -> None:
    for optimiser in (OPTIMISERS[place % 6], OPTIMISERS[(place + 3) % 6]):
        agree(make_problem("toy_1d", inner_steps=steps, optimiser=optimiser), EXACT_FAMILY)


@pytest.mark.parametrize(("optimiser", "steps"), zip(OPTIMISERS, (1, 4, 7, 9, 11, 13), strict=True))
def test_they_agree_on_regularisation_with_every_optimiser(optimiser: str, steps: int) -> None:
    agree(make_problem("regularisation", inner_steps=steps, optimiser=optimiser, learning_rate=0.05))


def test_they_agree_on_regularisation_on_the_larger_data_set_that_ships() -> None:
    agree(
        make_problem("regularisation", dataset="fashion_mnist_10k", inner_steps=5, optimiser="adam", learning_rate=0.05)
    )


# An optimiser with one slot and one with three; the problems above have every one.
@pytest.mark.parametrize(
    ("optimiser", "rate", "noise", "detach"), [("momentum", 0.02, "flip", False), ("adam", 0.001, "uniform", True)]
)
def test_they_agree_on_label_noise(optimiser: str, rate: float, noise: str, detach: bool) -> None:
    options = {"optimiser": optimiser, "learning_rate": rate, "noise": noise, "detach": detach}
    agree(make_problem("label_noise", dataset="digits", size="mlp64", inner_steps=5, **options))


@pytest.mark.parametrize(
    ("dataset", "size", "detach"),
    [
        ("digits", "mlp512x3", False),
        ("digits", "conv8", True),
        ("fashion_mnist_10k", "mlp64", False),
        ("fashion_mnist_10k", "conv8", False),
    ],
)
def test_they_agree_on_label_noise_with_every_kind_of_network(dataset: str, size: str, detach: bool) -> None:
    agree(make_problem("label_noise", dataset=dataset, size=size, inner_steps=2, detach=detach))


@WHOLE_FAMILY
def test_in_float32_they_are_the_float64_hypergradient_rounded(name: str, options: dict[str, Any]) -> None:
    found = {}
    for dtype in (torch.float32, torch.float64):
        problem = make_problem("regularisation", inner_steps=5, dtype=dtype)
        found[dtype] = call(name, problem, *checkpoint(problem), **options).meta
    rounded = {leaf: value.double() for leaf, value in found[torch.float32].items()}
    assert relative_error(rounded, found[torch.float64]) <= 1e-4
    assert all(value.dtype == torch.float32 for value in found[torch.float32].values())
