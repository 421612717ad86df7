"""Conjugate gradients equal the dense solve in n steps; the iteration x <- T x + c and the Neumann series are what their formulas say."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import relative_error

from metabench.autodiff.implicit.linear_solvers import Operator, affine_iteration, conjugate_gradients, neumann_series
from metabench.core import Diverged, Tree, tree
from metabench.core.randomness import generator

SCALES = [1e-12, 1e-4, 1.0, 30.0, 1e12]


def system(n: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Tree]:
    """Return a symmetric positive definite matrix with condition number 10, and a right-hand side in two pieces where n > 1."""
    stream = generator(n, "system")
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=torch.float64))
    matrix = scale * basis @ torch.diag(torch.linspace(0.1, 1.0, n, dtype=torch.float64)) @ basis.T
    vector = torch.randn(n, generator=stream, dtype=torch.float64).to(dtype)
    target = {"x": vector} if n == 1 else {"x": vector[: n // 2], "y": vector[n // 2 :]}
    return ((matrix + matrix.T) / 2).to(dtype), target


def times(matrix: torch.Tensor, like: Tree) -> Operator:
    return lambda v: tree.unflatten(matrix @ tree.flatten(v), like)


def solved(matrix: torch.Tensor, target: Tree) -> Tree:
    return tree.unflatten(torch.linalg.solve(matrix, tree.flatten(target)), target)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SCALES)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_cg_equals_the_dense_solve_in_n_steps(n: int, size: float, scale: float) -> None:
    matrix, target = system(n, scale)
    target = tree.scale(size, target)
    for steps in (n, n + 1, 20 * n):
        found = conjugate_gradients(times(matrix, target), target, steps, tolerance=0.0)
        assert relative_error(found.value, solved(matrix, target)) <= 1e-12
        assert not found.indefinite
        assert found.residual <= 1e-12


def test_cg_stops_by_itself_where_rounding_is_reached() -> None:
    for n in (1, 2, 10):
        matrix, target = system(n, 1e-3)
        assert conjugate_gradients(times(matrix, target), target, 10_000, tolerance=0.0).steps <= 2 * n + 2


def test_cg_needs_as_many_steps_as_there_are_different_eigenvalues() -> None:
    target = {"x": torch.arange(1.0, 7.0, dtype=torch.float64)}
    matrix = torch.diag(torch.tensor([2.0, 2, 2, 5, 5, 5], dtype=torch.float64))
    found = conjugate_gradients(times(matrix, target), target, 100, tolerance=1e-12)
    assert found.steps == 2
    assert relative_error(found.value, solved(matrix, target)) <= 1e-14


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_every_iterate_of_cg_is_the_best_of_its_krylov_space(steps: int) -> None:
    matrix, target = system(8)
    b = tree.flatten(target)
    found = conjugate_gradients(times(matrix, target), target, steps, tolerance=0.0)
    krylov = torch.stack([torch.linalg.matrix_power(matrix, j) @ b for j in range(steps)], dim=1)
    best = krylov @ torch.linalg.solve(krylov.T @ matrix @ krylov, krylov.T @ b)
    torch.testing.assert_close(tree.flatten(found.value), best, rtol=1e-9, atol=1e-9)
    true = float((b - matrix @ tree.flatten(found.value)).norm() / b.norm())
    assert found.residual == pytest.approx(true, rel=1e-9)
    assert found.steps == steps


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-5])
def test_cg_stops_at_the_first_iterate_within_the_tolerance(tolerance: float) -> None:
    matrix, target = system(10)
    found = conjugate_gradients(times(matrix, target), target, 100, tolerance)
    assert found.residual <= tolerance
    assert conjugate_gradients(times(matrix, target), target, found.steps - 1, 0.0).residual > tolerance


def test_cg_of_nothing_is_nothing() -> None:
    matrix, target = system(3)
    found = conjugate_gradients(times(matrix, target), tree.zeros_like(target), 5, 1e-10)
    assert (found.steps, found.residual, found.indefinite) == (0, 0.0, False)
    assert not tree.flatten(found.value).any()


def test_cg_stops_before_a_direction_of_negative_curvature_with_the_iterate_so_far() -> None:
    target = {"x": torch.tensor([3.0, 1.0], dtype=torch.float64)}
    matrix = torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64))
    found = conjugate_gradients(times(matrix, target), target, 10, 0.0)
    assert found.indefinite
    assert found.steps == 1
    length = 10.0 / 8.5  # |b|^2 / b'Ab
    torch.testing.assert_close(found.value["x"], length * target["x"], rtol=1e-14, atol=0)


def test_cg_in_float32_reaches_float32() -> None:
    matrix, target = system(10, dtype=torch.float32)
    found = conjugate_gradients(times(matrix, target), target, 100, 1e-10)
    assert relative_error(found.value, solved(matrix, target)) <= 1e-5
    assert not found.indefinite


def test_cg_does_not_hide_a_product_that_is_not_finite() -> None:
    _, target = system(2)
    with pytest.raises(Diverged, match="not finite"):
        conjugate_gradients(lambda v: tree.scale(float("nan"), v), target, 5, 1e-10)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("steps", [0, 1, 3, 12])
@pytest.mark.parametrize("n", [1, 4])
def test_the_neumann_series_is_the_geometric_sum(n: int, steps: int, scale: float) -> None:
    matrix, target = system(n, scale)
    alpha = 0.9 / scale
    found = neumann_series(times(matrix, target), target, steps, alpha)
    contraction = torch.eye(n, dtype=torch.float64) - alpha * matrix
    b = tree.flatten(target)
    # A^-1 (I - C^(steps + 1)) b, the closed form of alpha sum_j C^j b
    expected = torch.linalg.solve(matrix, b - torch.linalg.matrix_power(contraction, steps + 1) @ b)
    assert relative_error(found.value, tree.unflatten(expected, target)) <= 1e-11
    last = float((torch.linalg.matrix_power(contraction, steps) @ b).norm() / b.norm())
    assert (found.steps, found.residual) == (steps, pytest.approx(last, rel=1e-9))


def test_the_neumann_series_tends_to_the_solution_where_it_contracts() -> None:
    matrix, target = system(6)
    expected = solved(matrix, target)
    errors = [
        relative_error(neumann_series(times(matrix, target), target, n, 1.0).value, expected) for n in (50, 60, 400)
    ]
    assert errors[1] / errors[0] == pytest.approx(0.9**10, rel=1e-6)  # the smallest eigenvalue is 0.1
    assert errors[2] <= 1e-13


def test_a_neumann_series_that_is_not_finite_names_its_scale() -> None:
    matrix, target = system(2)
    assert neumann_series(times(matrix, target), target, 5, 10.0).residual > 1
    with pytest.raises(Diverged, match=r"scale 10\.0"):
        neumann_series(times(matrix, target), target, 2000, 10.0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("n", [1, 2, 10])
def test_cg_from_anywhere_equals_the_dense_solve_in_n_steps(n: int, scale: float) -> None:
    matrix, target = system(n, scale)
    start = tree.tree_map(lambda leaf: (leaf + 3).sin() / scale, target)
    found = conjugate_gradients(times(matrix, target), target, n, 0.0, start)
    assert relative_error(found.value, solved(matrix, target)) <= 1e-11


@pytest.mark.parametrize("scale", SCALES)
def test_cg_from_the_solution_takes_no_step(scale: float) -> None:
    matrix, target = system(10, scale)
    start = solved(matrix, target)
    found = conjugate_gradients(times(matrix, target), target, 50, 1e-12, start)
    assert found.steps == 0
    assert all(torch.equal(leaf, start[name]) for name, leaf in found.value.items())
    assert found.residual <= 1e-12


@pytest.mark.parametrize("tolerance", [1e-2, 1e-8])
def test_the_tolerance_and_the_residual_are_relative_to_the_right_hand_side_wherever_cg_starts(
    tolerance: float,
) -> None:
    matrix, target = system(10)
    start = tree.scale(1e3, target)
    found = conjugate_gradients(times(matrix, target), target, 100, tolerance, start)
    true = float((tree.flatten(target) - matrix @ tree.flatten(found.value)).norm() / tree.norm(target))
    assert found.residual <= tolerance
    assert found.residual == pytest.approx(true, rel=1e-3, abs=1e-12)
    fewer = conjugate_gradients(times(matrix, target), target, found.steps - 1, 0.0, start)
    assert fewer.residual > tolerance


def test_cg_of_nothing_is_nothing_wherever_it_starts() -> None:
    matrix, target = system(3)
    found = conjugate_gradients(times(matrix, target), tree.zeros_like(target), 5, 1e-10, start=target)
    assert (found.steps, found.residual) == (0, 0.0)
    assert not tree.flatten(found.value).any()


def test_cg_does_not_hide_a_start_that_is_not_finite() -> None:
    matrix, target = system(3)
    with pytest.raises(Diverged, match="not finite"):
        conjugate_gradients(times(matrix, target), target, 5, 1e-10, tree.scale(float("inf"), target))


def contraction(n: int, radius: float) -> tuple[torch.Tensor, Tree]:
    """Return a matrix with this spectral radius that is not symmetric, and a vector."""
    matrix, target = system(n)
    skew = torch.tril(torch.ones(n, n, dtype=torch.float64), -1)
    mixed = matrix @ (torch.eye(n, dtype=torch.float64) + 0.1 * skew)
    return mixed * radius / torch.linalg.eigvals(mixed).abs().max(), target


@pytest.mark.parametrize("steps", [0, 1, 4, 9])
@pytest.mark.parametrize("n", [1, 5])
def test_the_affine_iteration_is_the_truncated_series_of_its_transition(n: int, steps: int) -> None:
    transition, constant = contraction(n, 0.8)
    found = affine_iteration(times(transition, constant), constant, steps)
    powers = sum(torch.linalg.matrix_power(transition, j) for j in range(steps + 1))
    assert relative_error(found.value, times(powers, constant)(constant)) <= 1e-14
    last = torch.linalg.matrix_power(transition, steps) @ tree.flatten(constant)
    assert found.residual == pytest.approx(float(last.norm() / tree.norm(constant)), rel=1e-9)
    assert found.steps == steps


def test_the_affine_iteration_contracts_at_the_spectral_rate_whether_or_not_the_transition_is_symmetric() -> None:
    transition, constant = contraction(5, 0.9)
    operator = times(transition, constant)
    expected = solved(torch.eye(5, dtype=torch.float64) - transition, constant)
    errors = [relative_error(affine_iteration(operator, constant, n).value, expected) for n in (80, 90, 1000)]
    assert errors[1] / errors[0] == pytest.approx(0.9**10, rel=1e-3)
    assert errors[2] <= 1e-13


def test_the_affine_iteration_goes_on_from_where_it_is_told() -> None:
    transition, constant = contraction(4, 0.7)
    operator = times(transition, constant)
    whole, first = affine_iteration(operator, constant, 9), affine_iteration(operator, constant, 4)
    assert relative_error(affine_iteration(operator, constant, 5, start=first.value).value, whole.value) == 0
    again = affine_iteration(
        operator, constant, 100, 1e-10, start=solved(torch.eye(4, dtype=torch.float64) - transition, constant)
    )
    assert again.steps == 1


@pytest.mark.parametrize("tolerance", [1e-1, 1e-4, 1e-9])
def test_the_affine_iteration_stops_when_the_residual_it_reports_is_within_the_tolerance(tolerance: float) -> None:
    transition, constant = contraction(4, 0.7)
    found = affine_iteration(times(transition, constant), constant, 1000, tolerance)
    assert found.residual <= tolerance
    before = affine_iteration(times(transition, constant), constant, found.steps - 1)
    left = tree.subtract(constant, times(torch.eye(4, dtype=torch.float64) - transition, constant)(before.value))
    assert found.residual == pytest.approx(float(tree.norm(left) / tree.norm(constant)), rel=1e-5)
    assert before.residual > tolerance


def test_the_affine_iteration_stops_by_itself_where_rounding_is_reached() -> None:
    transition, constant = contraction(4, 0.5)
    assert affine_iteration(times(transition, constant), constant, 10_000).steps <= 60


@pytest.mark.parametrize(("radius", "contracting"), [(0.5, True), (0.99, True), (1.01, False), (3.0, False)])
@pytest.mark.parametrize("steps", [30, 200])
def test_whether_the_iteration_contracts_is_whether_the_spectral_radius_is_below_one(
    radius: float, contracting: bool, steps: int
) -> None:
    transition, constant = contraction(3, radius)
    assert affine_iteration(times(transition, constant), constant, steps).contracting is contracting


def test_before_the_first_step_nothing_is_said_of_contraction() -> None:
    transition, constant = contraction(3, 0.5)
    assert affine_iteration(times(transition, constant), constant, 0).contracting is None


def test_an_oscillation_that_dies_out_contracts_although_it_grows_at_first() -> None:
    # Heavy ball near its limit: complex eigenvalues of modulus sqrt(mu), and increments that rise before they fall.
    mu, rate = 0.95, 1.0
    transition = torch.tensor([[1 - rate, -mu], [rate, mu]], dtype=torch.float64)
    constant = {"x": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    operator = times(transition, constant)
    increments = [affine_iteration(operator, constant, n).residual for n in range(1, 40)]
    assert any(later > earlier for earlier, later in itertools.pairwise(increments))
    assert affine_iteration(operator, constant, 200).contracting is True


def test_the_neumann_series_goes_on_from_a_start_by_the_residual_there() -> None:
    matrix, target = system(4)
    operator = times(matrix, target)
    start = tree.tree_map(torch.cos, target)
    one = neumann_series(operator, target, 1, 0.3, start=start)
    residual = tree.subtract(target, operator(start))
    assert relative_error(one.value, tree.add_scaled(start, 0.3, residual)) <= 1e-15
    assert one.residual == pytest.approx(float(tree.norm(residual) / tree.norm(target)), rel=1e-12)
