"""Implicit methods equal the closed form at a minimum, the dense solve anywhere, and their own series term by term."""

from __future__ import annotations

import pytest
import torch
from bilevel import OPTIMISERS, assert_derivative, call, checkpoint, make_problem, relative_error
from small_problems import Ridge

from metabench.autodiff.exact import exact_target
from metabench.core import Diverged, InnerState, Target, Tree, tree
from metabench.core.method import NoOptions
from metabench.problems.toy_1d import closed_form

SCALES = [1e-8, 1e-3, 1.0, 50.0, 1e8]


def at_minimum(penalty: float, optimiser: str):  # type: ignore[no-untyped-def]
    """Return the toy at its inner minimum x = 1/(1 + l), where SGD stays, with momentum or without."""
    problem = make_problem("toy_1d", inner_steps=2, optimiser=optimiser)
    params = {"x": torch.tensor(1 / (1 + penalty), dtype=torch.float64)}
    state = InnerState(params, problem.optimiser.init(params))
    return problem, state, {"l": torch.tensor(penalty, dtype=torch.float64)}, next(problem.windows())[0]


def ridge(features: int = 5, scale: float = 1.0, inner_steps: int = 2):  # type: ignore[no-untyped-def]
    """Return a ridge problem, (state, meta, window), and the parameters after the window, which are no minimum."""
    problem = Ridge(features, inner_steps, scale)
    at = checkpoint(problem, windows_before=0)
    return problem, at, call("none", problem, *at).state.params


# Adam and RMSprop do not stay at a minimum: they divide a gradient of 1e-16, which is rounding, by its own size.
@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("penalty", [0.1, 0.7, 1.5, 4.0])
def test_at_the_toys_minimum_cg_gives_the_closed_form(penalty: float, optimiser: str) -> None:
    problem, state, meta, window = at_minimum(penalty, optimiser)
    for steps in (1, 2, 30):
        found = call("ift_cg", problem, state, meta, window, steps=steps)
        assert float(found.meta["l"]) == pytest.approx(closed_form(penalty), rel=1e-12)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_on_the_toy_cg_gives_the_implicit_formula_wherever_the_inner_run_ends(optimiser: str, rate: float) -> None:
    problem = make_problem("toy_1d", inner_steps=4, optimiser=optimiser, learning_rate=rate)
    at = checkpoint(problem)
    found = call("ift_cg", problem, *at, steps=1)
    x, penalty = float(found.state.params["x"]), float(at[1]["l"])
    assert float(found.meta["l"]) == pytest.approx(-2 * x * 2 * (x - 0.5) / (2 * (1 + penalty)), rel=1e-12)


def test_at_the_toys_best_penalty_the_implicit_hypergradient_is_zero() -> None:
    problem, state, meta, window = at_minimum(1.0, "sgd")
    assert float(call("ift_cg", problem, state, meta, window).meta["l"]) == pytest.approx(0.0, abs=1e-15)
    assert float(call("ift_neumann", problem, state, meta, window).meta["l"]) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("features", [1, 2, 5])
def test_cg_equals_the_dense_solve_in_as_many_steps_as_parameters_at_any_scale(features: int, scale: float) -> None:
    problem, at, params = ridge(features, scale)
    exact = problem.implicit(params, at[1])
    for steps in (features, features + 1, 10 * features):
        found = call("ift_cg", problem, *at, steps=steps, tolerance=0.0)
        assert relative_error(found.meta, exact) <= 1e-11
        assert found.diagnostics["indefinite"] == 0


def test_cg_with_fewer_steps_than_parameters_is_not_exact() -> None:
    problem, at, params = ridge(5)
    errors = [
        relative_error(call("ift_cg", problem, *at, steps=n).meta, problem.implicit(params, at[1])) for n in (1, 3, 5)
    ]
    assert errors[0] > 1e-3 > 1e-11 > errors[2]


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_cg_stops_at_its_tolerance(tolerance: float) -> None:
    problem, at, _ = ridge(5)
    found = call("ift_cg", problem, *at, steps=100, tolerance=tolerance)
    steps = int(found.diagnostics["solver_steps"])
    assert found.diagnostics["solver_residual"] <= tolerance
    assert steps <= 5
    shorter = call("ift_cg", problem, *at, steps=steps - 1, tolerance=0.0) if steps > 1 else None
    assert shorter is None or shorter.diagnostics["solver_residual"] > tolerance


@pytest.mark.parametrize("damping", [0.01, 1.0, 100.0])
def test_damping_is_added_to_the_hessians_diagonal(damping: float) -> None:
    problem, at, params = ridge(4)
    found = call("ift_cg", problem, *at, steps=4, damping=damping)
    assert relative_error(found.meta, problem.implicit(params, at[1], damping)) <= 1e-11


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("features", [1, 5])
def test_neumann_equals_its_truncated_series_formed_densely(features: int, steps: int, scale: float) -> None:
    problem, at, params = ridge(features, scale)
    alpha = 0.3 / scale
    contraction = torch.eye(features, dtype=torch.float64) - alpha * problem.hessian(at[1])
    powers = sum(torch.linalg.matrix_power(contraction, j) for j in range(steps + 1))
    solution = alpha * powers @ problem.outer_slope(params)
    found = call("ift_neumann", problem, *at, steps=steps, scale=alpha)
    assert relative_error(found.meta, {"log_penalty": -problem.mixed(params, at[1]) * solution}) <= 1e-12


def test_neumann_tends_to_the_exact_implicit_hypergradient_at_the_spectral_rate() -> None:
    problem, at, params = ridge(5)
    alpha = 0.3
    exact = problem.implicit(params, at[1])
    rate = float((1 - alpha * torch.linalg.eigvalsh(problem.hessian(at[1]))).abs().max())
    assert 0 < rate < 1
    errors = [relative_error(call("ift_neumann", problem, *at, steps=n, scale=alpha).meta, exact) for n in (40, 50)]
    assert errors[1] / errors[0] == pytest.approx(rate**10, rel=1e-3)
    assert relative_error(call("ift_neumann", problem, *at, steps=400, scale=alpha).meta, exact) <= 1e-12


def test_a_neumann_series_that_diverges_without_bound_says_so() -> None:
    problem, at, _ = ridge(5)
    assert call("ift_neumann", problem, *at, steps=20, scale=5.0).diagnostics["solver_residual"] > 1
    with pytest.raises(Diverged, match=r"scale 5\.0"):
        call("ift_neumann", problem, *at, steps=3000, scale=5.0)


def test_the_dense_yardstick_is_the_closed_form() -> None:
    problem, at, params = ridge(5)
    found = exact_target(Target.IMPLICIT, problem, *at, NoOptions())
    assert found is not None
    assert relative_error(found, problem.implicit(params, at[1])) <= 1e-12


def test_the_implicit_hypergradient_is_the_derivative_of_the_outer_loss_at_the_minimum() -> None:
    problem, (_, meta, window), _ = ridge(5)
    best = problem.minimum(meta)
    found = call("ift_cg", problem, InnerState(best, {}), meta, window, steps=5, tolerance=0.0).meta

    def value(at: Tree) -> float:
        return float(problem.outer_loss(problem.minimum(at), at, {}))

    assert_derivative(found, value, meta)


def test_on_regularisation_cg_equals_the_dense_solve() -> None:
    problem = make_problem("regularisation", inner_steps=3, start=-2.0)
    at = checkpoint(problem)
    exact = exact_target(Target.IMPLICIT, problem, *at, NoOptions())
    assert exact is not None
    errors = [relative_error(call("ift_cg", problem, *at, steps=n, tolerance=1e-13).meta, exact) for n in (5, 100)]
    assert errors[1] <= 1e-9 < errors[0]


def test_an_indefinite_hessian_is_reported() -> None:
    problem, state, _, window = at_minimum(0.5, "sgd")
    concave = {"l": torch.tensor(-3.0, dtype=torch.float64)}
    found = call("ift_cg", problem, state, concave, window)
    assert found.diagnostics["indefinite"] == 1
    assert tree.all_finite(found.meta)
