"""t1t2 is the exact derivative of one inner step, truncated reverse mode that of the last k."""

from __future__ import annotations

import pytest
import torch
from bilevel import OPTIMISERS, assert_derivative, call, checkpoint, make_problem, objective, relative_error
from small_problems import SummedOuter, Tanh

from metabench.autodiff.inner import run
from metabench.core import Problem


def small(name: str, optimiser: str, steps: int) -> Problem:
    """Return a problem whose hypergradients are large enough for differences: strong penalties, long steps."""
    if name == "toy_1d":
        return make_problem(name, inner_steps=steps, optimiser=optimiser, learning_rate=0.05)
    rate = 0.3 if optimiser in ("sgd", "momentum", "nesterov") else 0.05
    return make_problem(name, inner_steps=steps, optimiser=optimiser, learning_rate=rate, start=-1.0)


def frozen(problem: Problem, kept: int):  # type: ignore[no-untyped-def]
    """Return (state, meta, window) and the objective of the last `kept` steps from the state that the earlier ones reach."""
    state, meta, window = checkpoint(problem)
    before = run(problem, state, meta, window.inner[: len(window.inner) - kept])
    return state, meta, window, objective(problem, before, window.last(kept))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", ["toy_1d", "regularisation"])
@pytest.mark.parametrize("kept", [1, 2, 4, 6])
def test_truncated_equals_finite_differences_with_the_earlier_state_frozen(
    name: str, optimiser: str, kept: int
) -> None:
    problem = small(name, optimiser, 6)
    state, meta, window, tail = frozen(problem, kept)
    found = call("truncated", problem, state, meta, window, steps=kept)
    assert_derivative(found.meta, tail, meta, count=1)


def test_truncated_at_k_steps_or_more_is_unrolled() -> None:
    problem = Tanh("adam", inner_steps=4)
    at = checkpoint(problem)
    for kept in (4, 5, 100):
        assert (
            relative_error(call("truncated", problem, *at, steps=kept).meta, call("unrolled", problem, *at).meta) == 0
        )


def test_truncated_counts_the_outer_losses_before_its_steps_in_the_objective_and_not_in_the_derivative() -> None:
    problem = SummedOuter("momentum", inner_steps=5)
    state, meta, window, tail = frozen(problem, 2)
    found = call("truncated", problem, state, meta, window, steps=2)
    assert_derivative(found.meta, tail, meta)
    assert found.outer_loss == pytest.approx(objective(problem, state, window)(meta), rel=1e-12)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", ["toy_1d", "regularisation"])
@pytest.mark.parametrize("steps", [1, 4])
def test_t1t2_equals_finite_differences_of_the_last_step(name: str, optimiser: str, steps: int) -> None:
    problem = small(name, optimiser, steps)
    state, meta, window, last = frozen(problem, 1)
    assert_derivative(call("t1t2", problem, state, meta, window).meta, last, meta)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_t1t2_is_truncated_reverse_mode_of_one_step(optimiser: str) -> None:
    problem = Tanh(optimiser, inner_steps=3)
    at = checkpoint(problem)
    assert relative_error(call("t1t2", problem, *at).meta, call("truncated", problem, *at, steps=1).meta) <= 1e-13


@pytest.mark.parametrize("rate", [1.0, 0.1, 0.003])
def test_t1t2_on_the_toy_is_its_closed_form(rate: float) -> None:
    problem = make_problem("toy_1d", inner_steps=1, learning_rate=rate)
    state, meta, window = checkpoint(problem, windows_before=0)
    x, penalty = float(state.params["x"]), float(meta["l"])
    after = x - rate * (2 * (x - 1) + 2 * penalty * x)
    # dF/dl = 0, d2f/dl dx = 2 x, dF/dx = 2 (x' - 1/2)
    assert float(call("t1t2", problem, state, meta, window).meta["l"]) == pytest.approx(
        -rate * 2 * x * 2 * (after - 0.5), rel=1e-12
    )


@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_t1t2_on_regularisation_is_its_closed_form(rate: float) -> None:
    problem = make_problem("regularisation", inner_steps=1, learning_rate=rate, start=-2.0)
    state, meta, window = checkpoint(problem, windows_before=3)
    found = call("t1t2", problem, state, meta, window)
    # d2f/dl_j dW_jc = exp(l_j) W_jc, and dF/dW = Z^T (softmax - onehot) / m at the parameters after the step.
    batch, after = window.outer[-1], found.state.params
    assert batch is not None
    scores = batch["inputs"] @ after["weight"] + after["bias"]
    surprise = scores.softmax(1) - torch.nn.functional.one_hot(batch["targets"], 10)
    outer = batch["inputs"].T @ surprise / len(surprise)
    expected = -rate * meta["log_penalty"].exp() * (state.params["weight"] * outer).sum(1)
    assert relative_error(found.meta, {"log_penalty": expected}) <= 1e-12


def test_no_meta_learning_gives_zeros_shaped_as_the_meta_parameters() -> None:
    for problem in (make_problem("toy_1d"), make_problem("regularisation"), Tanh("adam")):
        state, meta, window = checkpoint(problem)
        found = call("none", problem, state, meta, window).meta
        assert list(found) == list(meta)
        assert all(torch.equal(leaf, torch.zeros_like(meta[name])) for name, leaf in found.items())


def test_truncated_tends_to_unrolled_at_the_rate_at_which_the_run_forgets() -> None:
    """On a quadratic every step contracts by 1 - 2 lr (1 + l): so does what the steps that are cut off contribute."""
    problem = make_problem("toy_1d", inner_steps=24, learning_rate=0.1)
    state, meta, window = checkpoint(problem, windows_before=4)  # near the minimum: all steps contribute alike
    whole = call("unrolled", problem, state, meta, window).meta
    errors = [
        relative_error(call("truncated", problem, state, meta, window, steps=kept).meta, whole)
        for kept in (4, 8, 12, 24)
    ]
    contraction = 1 - 0.2 * (1 + float(meta["l"]))
    assert errors[1] / errors[0] == pytest.approx(contraction**4, rel=0.02)
    assert errors[2] / errors[1] == pytest.approx(contraction**4, rel=0.02)
    assert errors[3] == 0
