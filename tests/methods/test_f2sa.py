"""F2SA equals its closed form on ridge at any penalty, and the implicit hypergradient up to an error of order 1/penalty."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, relative_error
from small_problems import LearnedStart, LearningRates, Ridge, SummedOuter, Tanh, at_minimum

from metabench.autodiff.gradients import inner_gradient, outer_gradient
from metabench.autodiff.optimisers import Adam, inner_optimiser
from metabench.core import Curvature, Diverged, InnerState, MetabenchError, Problem, Tree, Unsupported, tree
from metabench.methods import method


def penalised_minimum(problem: Ridge, meta: Tree, penalty: float, decay: float = 0.0) -> torch.Tensor:
    """Return the minimum of f + decay/2 |w|^2 + F / penalty."""
    of_outer = problem.z.T @ problem.z / len(problem.t)
    hessian = problem.hessian(meta) + decay * torch.eye(problem.features, dtype=torch.float64) + of_outer / penalty
    slope = (
        problem.scale * problem.x.T @ problem.y / len(problem.y) + problem.z.T @ problem.t / len(problem.t) / penalty
    )
    return torch.linalg.solve(hessian, slope)


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize(("penalty", "scale"), [(2.0, 1.0), (30.0, 1.0), (30.0, 10.0)])
def test_on_ridge_it_is_its_closed_form(penalty: float, scale: float, decay: float) -> None:
    problem = Ridge(4, scale=scale)
    problem.optimiser = inner_optimiser("momentum", 0.1 / scale, decay)
    state, meta, window = at_minimum(problem, decay)
    options = {"penalty": penalty, "steps": 600, "learning_rate": 0.3 / scale}
    found = call("f2sa", problem, state, meta, window, **options)
    drawn, trained = penalised_minimum(problem, meta, penalty, decay), state.params["w"]
    expected = penalty * scale / 2 * meta["log_penalty"].exp() * (drawn**2 - trained**2)
    assert relative_error(found.meta, {"log_penalty": expected}) <= 1e-10
    assert relative_error(found.state.memory["penalised"], {"w": drawn}) <= 1e-12


def test_its_error_falls_as_one_over_the_penalty() -> None:
    problem = Ridge(4)
    state, meta, window = at_minimum(problem)
    exact = problem.implicit(state.params, meta)
    errors = [
        relative_error(
            call("f2sa", problem, state, meta, window, penalty=penalty, steps=400, learning_rate=0.3).meta, exact
        )
        for penalty in (1e2, 1e3, 1e4, 1e5)
    ]
    for larger, smaller in itertools.pairwise(errors):
        assert larger / smaller == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("name", ["f2sa", "bome"])
@pytest.mark.parametrize(("features", "scale"), [(1, 1.0), (4, 1.0), (4, 0.1), (6, 1.0)])
def test_in_the_limit_that_it_declares_it_is_the_implicit_hypergradient(name: str, features: int, scale: float) -> None:
    problem = Ridge(features, scale=scale)
    state, meta, window = at_minimum(problem)
    eigenvalues = torch.linalg.eigvalsh(problem.hessian(meta))
    limit = method(name).limit
    assert limit is not None
    curvature = Curvature(features, float(eigenvalues[0]), float(eigenvalues[-1]))
    for options in limit.option_sets(curvature):
        found = call(name, problem, state, meta, window, **options)
        assert relative_error(found.meta, problem.implicit(state.params, meta)) <= limit.tolerance
        errors = []
        for value in limit.values:
            found = call(name, problem, state, meta, window, **(options | {limit.budget: value}))
            errors.append(relative_error(found.meta, problem.implicit(state.params, meta)))
        assert errors[-1] < 0.1 * max(errors)


def test_the_penalised_point_goes_on_from_window_to_window() -> None:
    problem = Tanh("adam", inner_steps=2)
    state, meta, window = checkpoint(problem)
    options = {"penalty": 20.0, "steps": 1, "learning_rate": 0.05}
    first = call("f2sa", problem, state, meta, window, **options)
    second = call("f2sa", problem, first.state, meta, window, **options)
    outer = window.outer[-1]
    assert outer is not None
    point = first.state.params
    for kept in (first, second):
        slope = inner_gradient(problem, point, meta, window.inner[-1])
        slope = tree.add_scaled(slope, 1 / 20.0, outer_gradient(problem, point, meta, outer).params)
        point = tree.add_scaled(point, -0.05, slope)
        assert relative_error(kept.state.memory["penalised"], point) <= 1e-13


@pytest.mark.parametrize("name", ["f2sa", "bome"])
@pytest.mark.parametrize("kind", [LearningRates, LearnedStart, SummedOuter])
def test_what_a_minimum_does_not_see_is_refused(name: str, kind: Any) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match=r"meta-parameters enter|outer losses are due"):
        call(name, problem, *checkpoint(problem))


@pytest.mark.parametrize("name", ["f2sa", "bome"])
def test_decoupled_weight_decay_is_refused_and_coupled_is_not(name: str) -> None:
    problem: Problem = Tanh("adam")
    problem.optimiser = Adam(0.02, weight_decay=0.1)
    call(name, problem, *checkpoint(problem))
    problem.optimiser = Adam(0.02, weight_decay=0.1, decoupled=True)
    with pytest.raises(Unsupported, match="decoupled"):
        call(name, problem, *checkpoint(problem))


@pytest.mark.parametrize("name", ["f2sa", "bome"])
def test_another_methods_memory_is_an_error(name: str) -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    with pytest.raises(MetabenchError, match="the memory holds 'solution', and no 'penalised': it is that of another method"):
        call(name, problem, InnerState(state.params, state.optimiser, {"solution": state.params}), meta, window)


def test_the_error_of_a_central_difference_falls_with_the_square_of_the_penalty() -> None:
    problem = Ridge(4)
    state, meta, window = at_minimum(problem)
    exact = problem.implicit(state.params, meta)

    def error(order: int, penalty: float) -> float:
        options = {"penalty": penalty, "steps": 600, "learning_rate": 0.3, "order": order}
        return relative_error(call("f2sa", problem, state, meta, window, **options).meta, exact)

    assert error(2, 100.0) < error(1, 100.0) / 20
    assert error(2, 10.0) / error(2, 100.0) == pytest.approx(100, rel=0.1)
    assert error(4, 10.0) / error(4, 20.0) == pytest.approx(16, rel=0.3)


def test_every_point_of_a_difference_is_kept_and_another_order_is_refused() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    found = call("f2sa", problem, state, meta, window, order=4)
    assert set(found.state.memory) == {"penalised", "penalised -1", "penalised +2", "penalised -2", "windows"}
    assert relative_error(found.answer or {}, found.state.memory["penalised"]) == 0
    first = call("f2sa", problem, state, meta, window)
    with pytest.raises(MetabenchError, match="no 'penalised -1': it is that of another method, or of other options"):
        call("f2sa", problem, first.state, meta, window, order=2)
    with pytest.raises(MetabenchError, match="must be 1, 2 or 4, got 3"):
        call("f2sa", problem, state, meta, window, order=3)


class Steep(Ridge):
    """An outer loss that is more curved than the inner one: f - F has no minimum."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        return 1e4 * super().outer_loss(params, meta, batch)


def test_where_f_less_the_outer_loss_is_unbounded_it_says_so_and_names_the_penalty() -> None:
    problem = Steep(4)
    state, meta, window = at_minimum(problem)
    with pytest.raises(Diverged, match="at a penalty of 10: their sum or difference has no minimum here"):
        call("f2sa", problem, state, meta, window, order=2, penalty=10.0, steps=4000, learning_rate=1e-3)


def test_the_penalty_grows_with_the_windows_of_a_run() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    multipliers = []
    for _ in range(3):
        found = call("f2sa", problem, state, meta, window, schedule="power 0.5", penalty=10.0)
        multipliers.append(found.diagnostics["multiplier"])
        state = found.state
    assert multipliers == pytest.approx([10, 10 * 2**0.5, 10 * 3**0.5])
