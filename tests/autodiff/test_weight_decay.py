"""With weight decay in the inner optimiser, what training minimises is f + c/2 |w|^2: the implicit hypergradient is that of its minimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import OPTIMISERS, assert_derivative, call, checkpoint, relative_error
from small_problems import RecurrentCell, Ridge

from metabench.autodiff.exact import exact_implicit, exact_target
from metabench.autodiff.inner import run
from metabench.autodiff.optimisers import decay_of, inner_optimiser
from metabench.core import InnerState, Target, Tree, Unsupported
from metabench.core.method import NoOptions

COUPLED = ("sgd", "momentum", "nesterov", "adam", "rmsprop")
DECAY = 0.3
SOLVERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ift_cg", {"steps": 5, "tolerance": 0.0}),
    ("ift_neumann", {"steps": 500, "scale": 0.3}),
    ("ift_nystrom", {"rank": 5, "rho": 1e-7}),
    ("ift_nystrom", {"rank": 5, "rho": 1e-7, "storage": "blocked"}),
)


def decayed(name: str, decay: float = DECAY) -> Ridge:
    problem = Ridge(5)
    problem.optimiser = inner_optimiser(name, 0.1, decay)
    return problem


def minimum(problem: Ridge, meta: Tree) -> Tree:
    """Return the minimum of f + c/2 |w|^2."""
    hessian = problem.hessian(meta) + DECAY * torch.eye(5, dtype=torch.float64)
    return {"w": torch.linalg.solve(hessian, problem.x.T @ problem.y / len(problem.y))}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_says_what_decay_the_loss_has_that_it_minimises(name: str) -> None:
    assert decay_of(inner_optimiser(name, 0.1)) == 0.0
    if name in COUPLED:
        assert decay_of(inner_optimiser(name, 0.1, DECAY)) == DECAY
    else:
        with pytest.raises(Unsupported, match="decoupled from an adaptive step"):
            decay_of(inner_optimiser(name, 0.1, DECAY))


def test_an_optimiser_that_says_nothing_has_none() -> None:
    assert decay_of(RecurrentCell()) == 0.0


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_training_comes_to_rest_where_the_decayed_loss_is_stationary(name: str) -> None:
    problem = decayed(name)
    state, meta, window = checkpoint(problem)
    state = run(problem, state, meta, window.inner * 800)
    assert relative_error(state.params, minimum(problem, meta)) <= 1e-12


@pytest.mark.parametrize(("method", "options"), SOLVERS, ids=str)
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_at_rest_it_is_the_derivative_of_the_outer_loss_at_the_minimum(
    name: str, method: str, options: dict[str, Any]
) -> None:
    problem = decayed(name)
    _, meta, window = checkpoint(problem)
    best = minimum(problem, meta)
    at = InnerState(best, problem.optimiser.init(best)), meta, window

    def value(of: Tree) -> float:
        return float(problem.outer_loss(minimum(problem, of), of, {}))

    assert_derivative(call(method, problem, *at, **options).meta, value, meta, tolerance=1e-6)
    assert_derivative(exact_implicit(problem, *at), value, meta)


@pytest.mark.parametrize(("method", "options"), SOLVERS, ids=str)
@pytest.mark.parametrize("name", COUPLED)
def test_anywhere_the_decay_is_added_to_the_hessians_diagonal(name: str, method: str, options: dict[str, Any]) -> None:
    problem = decayed(name)
    at = checkpoint(problem)
    found = call(method, problem, *at, **options)
    assert relative_error(found.meta, problem.implicit(found.state.params, at[1], damping=DECAY)) <= 1e-6
    exact = exact_target(Target.IMPLICIT, problem, *at, NoOptions())
    assert exact is not None
    assert relative_error(exact, problem.implicit(found.state.params, at[1], damping=DECAY)) <= 1e-12


@pytest.mark.parametrize("method", ["ift_cg", "ift_neumann", "ift_nystrom"])
def test_where_no_loss_is_minimised_stationarity_has_no_answer_and_no_yardstick(method: str) -> None:
    problem = decayed("adamw")
    at = checkpoint(problem)
    with pytest.raises(Unsupported, match="decoupled"):
        call(method, problem, *at)
    assert exact_target(Target.IMPLICIT, problem, *at, NoOptions()) is None
    without = decayed("adamw", 0.0)
    assert exact_target(Target.IMPLICIT, without, *checkpoint(without), NoOptions()) is not None
