"""BOME's multiplier by hand, where its point comes to rest, and the implicit hypergradient that it tends to."""

from __future__ import annotations

import pytest
import torch
from bilevel import call, checkpoint, make_problem, relative_error
from small_problems import Ridge, at_minimum

from metabench.core import InnerState, tree


def by_hand(point: float, trained: float, penalty: float, eta: float, joint: bool) -> tuple[float, float, float]:
    """Return (multiplier, dF/dy + c dq/dy, c dq/dl) on the toy problem: f = (x - 1)^2 + l x^2, F = (x - 1/2)^2."""
    of_outer, of_gap = 2 * (point - 0.5), 2 * (point - 1) + 2 * penalty * point
    direct = point**2 - trained**2
    squared = of_gap**2 + (direct**2 if joint else 0.0)
    multiplier = max(eta - of_outer * of_gap / squared, 0.0)
    return multiplier, of_outer + multiplier * of_gap, multiplier * direct


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("start", [0.3, 0.52, 1.4])
def test_on_the_toy_it_is_the_papers_formula(start: float, joint: bool) -> None:
    problem = make_problem("toy_1d", inner_steps=3)
    state, meta, window = checkpoint(problem)
    memory = {"penalised": {"x": torch.tensor(start, dtype=torch.float64)}}
    state = InnerState(state.params, state.optimiser, memory)
    found = call("bome", problem, state, meta, window, eta=0.7, steps=2, learning_rate=0.05, joint=joint)
    penalty, trained, point = float(meta["l"]), float(found.state.params["x"]), start
    for _ in range(2):
        point -= 0.05 * by_hand(point, trained, penalty, 0.7, joint)[1]
    multiplier, _, expected = by_hand(point, trained, penalty, 0.7, joint)
    assert float(found.state.memory["penalised"]["x"]) == pytest.approx(point, rel=1e-13)
    assert found.diagnostics["multiplier"] == pytest.approx(multiplier, rel=1e-12)
    assert float(found.meta["l"]) == pytest.approx(expected, rel=1e-12)


def test_where_the_outer_loss_falls_with_the_gap_the_multiplier_is_zero() -> None:
    # At x = 3 both losses fall in the same direction, and faster than eta asks for.
    problem = make_problem("toy_1d", inner_steps=1)
    state, meta, window = checkpoint(problem)
    state = InnerState(state.params, state.optimiser, {"penalised": {"x": torch.tensor(3.0, dtype=torch.float64)}})
    found = call("bome", problem, state, meta, window, eta=1e-3)
    assert found.diagnostics["multiplier"] == 0
    assert float(found.state.memory["penalised"]["x"]) == pytest.approx(3 - 0.05 * 2 * 2.5)


def test_a_gap_without_a_slope_leaves_the_outer_loss_alone() -> None:
    problem = Ridge(3)
    _, meta, window = at_minimum(problem)
    # Training that goes nowhere ends on a point at which the inner gradient is zero to the last bit.
    still = InnerState({"w": torch.zeros(3, dtype=torch.float64)}, {})
    problem.y = torch.zeros_like(problem.y)
    found = call("bome", problem, still, meta, window, steps=1, learning_rate=0.1)
    moved = -0.1 * problem.outer_slope(still.params)
    assert relative_error(found.state.memory["penalised"], {"w": moved}) <= 1e-14
    assert tree.all_finite(found.meta)


def test_with_joint_slopes_it_comes_to_rest_where_the_multiplier_is_finite_and_its_error_is_of_order_one_over_eta() -> (
    None
):
    problem = make_problem("toy_1d", inner_steps=1)
    _, meta, window = checkpoint(problem)
    penalty = float(meta["l"])
    minimum = 1 / (1 + penalty)
    state = InnerState({"x": torch.tensor(minimum, dtype=torch.float64)}, {})
    exact = (penalty - 1) / (penalty + 1) ** 3
    errors = []
    for eta in (10.0, 100.0, 1000.0):
        found = call("bome", problem, state, meta, window, eta=eta, steps=1500, learning_rate=0.02 / eta)
        point = float(found.state.memory["penalised"]["x"])
        slope, direct = 2 * (point - 1) + 2 * penalty * point, point**2 - minimum**2
        assert found.diagnostics["multiplier"] == pytest.approx(eta * (1 + slope**2 / direct**2), rel=1e-6)
        assert 2 * (point - 0.5) + found.diagnostics["multiplier"] * slope == pytest.approx(0, abs=1e-8)
        errors.append(abs(float(found.meta["l"]) - exact))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("features", [2, 4])
def test_with_the_slopes_of_its_point_alone_its_error_is_of_the_order_of_the_learning_rate(features: int) -> None:
    problem = Ridge(features)
    state, meta, window = at_minimum(problem)
    exact = problem.implicit(state.params, meta)
    errors = []
    for rate in (1e-4, 1e-5, 1e-6):
        found = call("bome", problem, state, meta, window, joint=False, steps=200, learning_rate=rate)
        errors.append(relative_error(found.meta, exact))
        assert 0.1 / rate < found.diagnostics["multiplier"] < 10 / rate
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.2)
