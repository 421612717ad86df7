"""The hypergradient with a Nystrom inverse: exact at full rank as rho vanishes, its dense formula at any rank, and its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, make_problem, relative_error
from small_problems import OuterPenalty, Ridge

from metabench.autodiff.exact import exact_implicit
from metabench.core import Curvature, tree
from metabench.core.randomness import generator
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method

STORAGES: list[dict[str, Any]] = [{}, {"block": 3}, {"storage": "blocked"}, {"storage": "blocked", "block": 3}]
every_storage = pytest.mark.parametrize("storage", STORAGES, ids=str)


@every_storage
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("features", [1, 2, 5])
def test_at_its_limit_it_is_the_exact_implicit_hypergradient(
    features: int, scale: float, storage: dict[str, Any]
) -> None:
    problem = Ridge(features, 2, scale)
    at = checkpoint(problem)
    values = torch.linalg.eigvalsh(problem.hessian(at[1]))
    declared = method("ift_nystrom").limit
    assert declared is not None
    first = declared.option_sets(Curvature(features, float(values[0]), float(values[-1])))[0]
    found = call("ift_nystrom", problem, *at, **first, **storage)
    assert relative_error(found.meta, exact_implicit(problem, *at)) <= 1e-5 <= declared.tolerance


@every_storage
def test_at_full_rank_the_error_falls_with_rho(storage: dict[str, Any]) -> None:
    problem = Ridge(5)
    at = checkpoint(problem)
    smallest = float(torch.linalg.eigvalsh(problem.hessian(at[1]))[0])
    for rho in (0.1, 1e-3, 1e-5):
        found = call("ift_nystrom", problem, *at, rank=99, rho=rho, **storage)
        params = found.state.params
        assert relative_error(found.meta, problem.implicit(params, at[1], damping=rho)) <= 1e-8
        assert relative_error(found.meta, problem.implicit(params, at[1])) <= 2 * rho / smallest


@every_storage
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_below_full_rank_it_is_the_dense_formula_on_the_columns_that_the_generator_draws(
    rank: int, storage: dict[str, Any]
) -> None:
    problem = Ridge(5)
    at = checkpoint(problem)
    found = call("ift_nystrom", problem, *at, seed=3, rank=rank, rho=0.2, **storage)
    chosen = torch.randperm(5, generator=generator(3, "test"))[:rank]
    hessian = problem.hessian(at[1])
    columns = hessian[:, chosen]
    regular = columns @ torch.linalg.inv(columns[chosen]) @ columns.T + 0.2 * torch.eye(5, dtype=torch.float64)
    solution = torch.linalg.solve(regular, problem.outer_slope(found.state.params))
    expected = {"log_penalty": -problem.mixed(found.state.params, at[1]) * solution}
    assert relative_error(found.meta, expected) <= 1e-12


def test_an_index_counts_through_all_parameters_and_the_direct_term_is_there() -> None:
    problem = OuterPenalty("sgd")
    problem.optimiser = type(problem.optimiser)(0.1, weight_decay=1.0)
    at = checkpoint(problem)
    exact = exact_implicit(problem, *at)
    size = tree.count(at[0].params)
    for storage in STORAGES:
        assert relative_error(call("ift_nystrom", problem, *at, rank=size, rho=1e-7, **storage).meta, exact) <= 1e-5
        assert relative_error(call("ift_nystrom", problem, *at, rank=3, rho=1e-7, **storage).meta, exact) > 1e-3


def test_on_regularisation_more_columns_leave_less() -> None:
    problem = make_problem("regularisation", start=-2.0)
    at = checkpoint(problem)
    exact = exact_implicit(problem, *at)
    found = [call("ift_nystrom", problem, *at, rank=k, block=50, rho=1e-3) for k in (10, 200, 650)]
    errors = [relative_error(one.meta, exact) for one in found]
    residuals = [one.diagnostics["solver_residual"] for one in found]
    assert errors[2] < 1e-2 < errors[0]
    assert residuals[0] > residuals[1] > residuals[2]


def peak(rank: int, **options: Any) -> int:
    problem = Ridge(16000)
    at = checkpoint(problem)

    def run() -> Any:
        return call("ift_nystrom", problem, *at, rank=rank, **options)

    run()
    return measure_memory(run, (at[0].params, at[1], problem.x, problem.z), "cpu")[1].dynamic_bytes


def test_memory_is_linear_in_rank_with_the_columns_kept_and_flat_with_columns_that_pass() -> None:
    vector = 16000 * 8
    dense, blocked = ([peak(k, **options) for k in (10, 20, 40)] for options in ({}, {"storage": "blocked"}))
    assert (dense[1] - dense[0]) / (10 * vector) == pytest.approx(1, rel=0.05)
    assert (dense[2] - dense[1]) / (20 * vector) == pytest.approx(1, rel=0.05)
    # What is left is the k x k system.
    assert blocked[2] - blocked[0] <= 10 * 40 * 40 * 8
    assert blocked[2] < dense[0]


def test_memory_with_columns_that_pass_grows_with_their_block() -> None:
    few, many = (peak(40, storage="blocked", block=block) for block in (2, 20))
    assert few < many <= peak(40, storage="blocked", block=1) * 20
