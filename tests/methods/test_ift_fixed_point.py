"""The fixed point of the step map: implicit differentiation for SGD with or without momentum, the linearised map for the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import OPTIMISERS, assert_derivative, call, checkpoint, make_problem, relative_error
from small_problems import LearningRates, OuterPenalty, Ridge, Tanh

from metabench.autodiff.exact import exact_implicit
from metabench.autodiff.gradients import outer_gradient
from metabench.autodiff.implicit.fixed_point import StepMap
from metabench.autodiff.implicit.linear_solvers import affine_iteration
from metabench.autodiff.inner import run
from metabench.autodiff.optimisers import Adam, RMSprop, inner_optimiser, scheduled
from metabench.core import Curvature, Diverged, InnerState, Problem, Tree, Unsupported, Window, tree
from metabench.core.schedules import Cosine
from metabench.methods import method

LINEAR = ("sgd", "momentum", "nesterov")


def ridge(name: str, decay: float = 0.0, rate: float = 0.1) -> Ridge:
    problem = Ridge(5, inner_steps=2)
    problem.optimiser = inner_optimiser(name, rate, decay)
    return problem


def linearised(problem: Problem, state: InnerState, meta: Tree, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """Return dPhi/d(w, s) and dPhi/dl at a state, dense, the step count held."""
    slots = [slot for slot in state.optimiser if slot != "step"]
    shapes = {("params", name): leaf for name, leaf in state.params.items()}
    shapes |= {(slot, name): leaf for slot in slots for name, leaf in state.optimiser[slot].items()}
    like: Any = shapes

    def phi(flat: torch.Tensor, flat_meta: torch.Tensor) -> torch.Tensor:
        leaves, at = tree.unflatten(flat, like), tree.unflatten(flat_meta, meta)
        trees = {slot: {n: leaf for (s, n), leaf in leaves.items() if s == slot} for slot in ("params", *slots)}  # type: ignore[misc]
        params = trees.pop("params")
        loss = problem.inner_loss(params, at, window.inner[-1])
        slope = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        moved, after = problem.optimiser.update(
            dict(zip(params, slope, strict=True)), params, {**state.optimiser, **trees}, at
        )
        return torch.cat([tree.flatten(moved), *(tree.flatten(after[slot]) for slot in slots)])

    return torch.autograd.functional.jacobian(phi, (tree.flatten(like), tree.flatten(meta)))  # type: ignore[no-any-return]


def dense(problem: Problem, state: InnerState, meta: Tree, window: Window) -> tuple[Tree, torch.Tensor, torch.Tensor]:
    """Return dF/dl + (dPhi/dl)^T (I - dPhi/ds^T)^-1 (dF/dw, 0) after the window by a dense solve, and the linearised map."""
    final = run(problem, state, meta, window.inner)
    of_state, of_meta = linearised(problem, final, meta, window)
    outer = window.outer[-1]
    assert outer is not None
    due = outer_gradient(problem, final.params, meta, outer)
    constant = torch.zeros(len(of_state), dtype=torch.float64)
    constant[: tree.count(final.params)] = tree.flatten(due.params)
    adjoint = torch.linalg.solve(torch.eye(len(of_state), dtype=torch.float64) - of_state.T, constant)
    found = tree.unflatten(tree.flatten(due.meta) + of_meta.T @ adjoint, meta)
    return found, of_state, constant


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", LINEAR)
def test_with_sgd_and_momentum_it_tends_to_the_exact_implicit_hypergradient_anywhere(name: str, decay: float) -> None:
    problem = ridge(name, decay)
    at = checkpoint(problem)
    found = call("ift_fixed_point", problem, *at, steps=20000, tolerance=1e-13)
    assert relative_error(found.meta, exact_implicit(problem, *at)) <= 1e-10
    assert relative_error(found.meta, problem.implicit(found.state.params, at[1], damping=decay)) <= 1e-10
    assert found.diagnostics["contracting"] == 1
    assert found.diagnostics["solver_residual"] <= 1e-13


@pytest.mark.parametrize("name", LINEAR)
def test_on_a_network_with_terms_in_both_losses_it_tends_to_the_linearised_maps_dense_solve(name: str) -> None:
    problem = OuterPenalty(name)
    problem.optimiser = inner_optimiser(name, 0.05, 2.0)
    state, meta, window = checkpoint(problem, windows_before=5)
    expected, of_state, _ = dense(problem, state, meta, window)
    assert float(torch.linalg.eigvals(of_state).abs().max()) < 1
    found = call("ift_fixed_point", problem, state, meta, window, steps=20000, tolerance=1e-13)
    assert relative_error(found.meta, expected) <= 1e-9
    assert relative_error(found.meta, exact_implicit(problem, state, meta, window)) <= 1e-9


def test_at_the_minimum_it_is_the_derivative_of_the_outer_loss_there() -> None:
    problem = ridge("momentum")
    _, meta, window = checkpoint(problem)
    best = problem.minimum(meta)
    state = InnerState(best, problem.optimiser.init(best))
    found = call("ift_fixed_point", problem, state, meta, window, steps=20000, tolerance=1e-13).meta
    assert_derivative(found, lambda at: float(problem.outer_loss(problem.minimum(at), at, {})), meta)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_after_any_number_of_steps_it_is_the_truncated_series_of_the_linearised_map(
    name: str, decay: float, steps: int
) -> None:
    problem = Tanh(name)
    problem.optimiser = inner_optimiser(name, 0.02, decay)
    state, meta, window = checkpoint(problem, windows_before=5)
    _, of_state, constant = dense(problem, state, meta, window)
    final = run(problem, state, meta, window.inner)
    _, of_meta = linearised(problem, final, meta, window)
    adjoint = sum(torch.linalg.matrix_power(of_state.T, j) for j in range(steps + 1)) @ constant
    found = call("ift_fixed_point", problem, state, meta, window, steps=steps, tolerance=0.0)
    assert relative_error(found.meta, tree.unflatten(of_meta.T @ adjoint, meta)) <= 1e-11
    assert found.diagnostics["solver_steps"] == steps


@pytest.mark.parametrize(
    ("optimiser", "windows"),
    [
        (Adam(0.02, (0.9, 0.95)), 30),
        (Adam(0.02, (0.9, 0.95), weight_decay=0.1, decoupled=True), 30),
        (RMSprop(0.02, alpha=0.9), 10),
    ],
    ids=["adam", "adamw", "rmsprop"],
)
def test_with_adaptive_steps_it_tends_to_the_dense_solve_of_the_map_linearised_where_it_is(
    optimiser: Adam | RMSprop, windows: int
) -> None:
    problem = ridge("sgd")
    problem.optimiser = optimiser
    state, meta, window = checkpoint(problem, windows_before=windows)
    expected, of_state, _ = dense(problem, state, meta, window)
    assert float(torch.linalg.eigvals(of_state).abs().max()) < 0.995
    found = call("ift_fixed_point", problem, state, meta, window, steps=10000, tolerance=1e-13)
    assert found.diagnostics["contracting"] == 1
    assert relative_error(found.meta, expected) <= 1e-9


@pytest.mark.parametrize("name", LINEAR)
def test_the_error_contracts_at_the_spectral_radius_of_the_step_map(name: str) -> None:
    problem = ridge(name, rate=0.1)
    at = checkpoint(problem)
    _, of_state, _ = dense(problem, *at)
    rate = float(torch.linalg.eigvals(of_state).abs().max())
    exact = exact_implicit(problem, *at)
    # Over many steps: complex eigenvalues make the error oscillate about its envelope.
    few, many = (
        relative_error(call("ift_fixed_point", problem, *at, steps=n, tolerance=0.0).meta, exact) for n in (20, 120)
    )
    assert rate < 1
    assert (many / few) ** (1 / 100) == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_damping_is_added_to_the_hessians_diagonal_and_moves_nothing(name: str, damping: float) -> None:
    problem = ridge(name)
    at = checkpoint(problem)
    found = call("ift_fixed_point", problem, *at, steps=20000, tolerance=1e-13, damping=damping)
    assert relative_error(found.meta, problem.implicit(found.state.params, at[1], damping)) <= 1e-10
    plain = call("none", problem, *at).state
    assert relative_error(found.state.params, plain.params) == 0


def test_a_step_map_that_expands_is_reported_and_at_last_an_error() -> None:
    problem = ridge("sgd", rate=0.1)
    at = checkpoint(problem)
    problem.optimiser = inner_optimiser("sgd", 3.0)
    found = call("ift_fixed_point", problem, *at, steps=20)
    assert found.diagnostics["contracting"] == 0
    assert found.diagnostics["solver_residual"] > 1
    with pytest.raises(Diverged, match="not finite"):
        call("ift_fixed_point", problem, *at, steps=5000)


def test_learning_rates_move_no_fixed_point() -> None:
    problem = LearningRates()
    with pytest.raises(Unsupported, match="does not depend on them"):
        call("ift_fixed_point", problem, *checkpoint(problem))


def test_it_reaches_the_limit_it_declares() -> None:
    declared = method("ift_fixed_point").limit
    assert declared is not None
    problem = make_problem("toy_1d", inner_steps=4, learning_rate=0.1)
    at = checkpoint(problem)

    for options in declared.option_sets(Curvature(1, 2.0, 2.0)):
        found = call("ift_fixed_point", problem, *at, **options)
        assert relative_error(found.meta, exact_implicit(problem, *at)) <= declared.tolerance


def test_a_scheduled_rate_is_that_after_the_last_step() -> None:
    problem, constant = Ridge(5, inner_steps=2), Ridge(5, inner_steps=2)
    problem.optimiser = inner_optimiser("sgd", scheduled(0.4, Cosine(8, 0.1)))
    state, meta, window = checkpoint(problem)
    found = call("ift_fixed_point", problem, state, meta, window, steps=3, tolerance=0.0)
    # From w_4 on by the rate of step 4, of eight, at which the cosine is half way down.
    constant.optimiser = inner_optimiser("sgd", 0.4 * 0.55)
    before = run(problem, state, meta, window.inner)
    phi = StepMap(constant, InnerState(before.params, {}), meta, window.inner[-1])
    due = outer_gradient(problem, before.params, meta, window.outer[-1] or {})
    adjoint = affine_iteration(phi.pull, phi.outer_slope(due.params), 3, 0.0).value
    assert relative_error(found.meta, tree.add(due.meta, phi.pull_meta(adjoint))) <= 1e-13


def test_at_a_rate_of_zero_the_iteration_does_not_settle_and_says_so() -> None:
    problem = OuterPenalty("sgd", inner_steps=2)
    problem.optimiser = inner_optimiser("sgd", scheduled(0.1, Cosine(4)))
    state, meta, window = checkpoint(problem)
    found = call("ift_fixed_point", problem, state, meta, window)
    due = outer_gradient(problem, found.state.params, meta, window.outer[-1] or {})
    assert relative_error(found.meta, due.meta) == 0
    assert found.diagnostics["contracting"] == 0.0
