"""The Nystrom inverse is its dense formula at any rank, and (H + rho I)^-1 at full rank, whether its columns are kept or not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bilevel import checkpoint, make_problem, relative_error
from small_problems import Ridge, Tanh

from metabench.autodiff.implicit.hessian import DampedHessian
from metabench.autodiff.implicit.nystrom import drawn_columns, kept_columns, nystrom, passing_columns
from metabench.autodiff.products import hessian_operator
from metabench.core import Diverged, Problem, Tree, tree
from metabench.core.randomness import generator

STORAGES = [(kept_columns, 1), (kept_columns, 3), (passing_columns, 1), (passing_columns, 2), (passing_columns, 100)]

every_storage = pytest.mark.parametrize(
    ("sketch_of", "block"), STORAGES, ids=lambda part: getattr(part, "__name__", part)
)


def point(problem: Problem) -> tuple[DampedHessian, torch.Tensor, Tree]:
    """Return the Hessian at a point, the same as a matrix, and a right-hand side."""
    state, meta, window = checkpoint(problem)
    hessian = DampedHessian(problem, state.params, meta, window.inner[-1])
    target = tree.tree_map(lambda leaf: (3 * leaf + 1).sin(), state.params)
    return hessian, hessian.rows(torch.eye(tree.count(target), dtype=torch.float64)), target


@pytest.mark.parametrize(
    "problem", [Ridge(5), Ridge(1), Tanh(), make_problem("regularisation")], ids=lambda p: type(p).__name__
)
def test_products_with_several_directions_are_the_products_with_each(problem: Problem) -> None:
    state, meta, window = checkpoint(problem)
    for shift in (0.0, 0.7):
        hessian = DampedHessian(problem, state.params, meta, window.inner[-1], shift)
        plain = hessian_operator(problem, state.params, meta, window.inner[-1])
        rows = torch.randn(4, tree.count(state.params), generator=generator(0, "rows"), dtype=torch.float64)
        expected = torch.stack([tree.flatten(plain(tree.unflatten(row, state.params))) for row in rows]) + shift * rows
        torch.testing.assert_close(hessian.rows(rows), expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(hessian.rows(rows[:1]), expected[:1], rtol=1e-11, atol=1e-13)


def test_a_loss_that_is_linear_has_no_curvature_beside_the_shift() -> None:
    class Linear(Ridge):
        def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
            return (self.x @ params["w"]).sum()

    problem = Linear(3)
    state, meta, window = checkpoint(problem)
    rows = torch.eye(3, dtype=torch.float64)
    assert not DampedHessian(problem, state.params, meta, window.inner[-1]).rows(rows).any()
    assert torch.equal(DampedHessian(problem, state.params, meta, window.inner[-1], 0.5).rows(rows), 0.5 * rows)


@every_storage
@pytest.mark.parametrize("rho", [1e-3, 0.01, 2.0])
@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_at_any_rank_it_is_the_dense_formula(rank: int, rho: float, sketch_of: Any, block: int) -> None:
    hessian, matrix, target = point(Ridge(6))
    chosen = drawn_columns(6, rank, generator(1, "columns"))
    columns = matrix[:, chosen]
    approximation = columns @ torch.linalg.inv(columns[chosen]) @ columns.T
    expected = torch.linalg.solve(approximation + rho * torch.eye(6, dtype=torch.float64), tree.flatten(target))
    found = nystrom(hessian, target, chosen, rho, sketch_of, block)
    assert relative_error(found.value, tree.unflatten(expected, target)) <= 1e-10
    left = tree.flatten(target) - matrix @ expected
    assert found.residual == pytest.approx(float(left.norm() / tree.norm(target)), rel=1e-8)
    assert (found.steps, found.rank, found.indefinite) == (rank, rank, False)


@every_storage
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_at_full_rank_what_is_left_is_of_the_order_of_rho(scale: float, sketch_of: Any, block: int) -> None:
    hessian, matrix, target = point(Ridge(5, scale=scale))
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    exact = torch.linalg.solve(matrix, tree.flatten(target))
    chosen = drawn_columns(5, 5, generator(0, "columns"))
    for share in (1e-1, 1e-3, 1e-5):
        found = nystrom(hessian, target, chosen, share * smallest, sketch_of, block)
        regular = torch.linalg.solve(
            matrix + share * smallest * torch.eye(5, dtype=torch.float64), tree.flatten(target)
        )
        assert relative_error(found.value, tree.unflatten(regular, target)) <= 1e-7
        assert relative_error(found.value, tree.unflatten(exact, target)) <= share


def test_keeping_the_columns_or_not_gives_the_same_where_the_hessian_is_indefinite() -> None:
    hessian, matrix, target = point(Tanh())
    assert float(torch.linalg.eigvalsh(matrix)[0]) < 0
    for rank in (3, 10, len(matrix)):
        chosen = drawn_columns(len(matrix), rank, generator(0, "columns"))
        first, *others = [nystrom(hessian, target, chosen, 0.05, sketch_of, block) for sketch_of, block in STORAGES]
        for other in others:
            assert relative_error(other.value, first.value) <= 1e-10
            assert (other.rank, other.indefinite) == (first.rank, first.indefinite)
    assert first.indefinite


@every_storage
def test_columns_that_depend_on_each_other_count_once(sketch_of: Any, block: int) -> None:
    class Flat(Ridge):
        """A loss that sees the parameters through two numbers alone: a Hessian of rank two."""

        def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
            return (self.x[:2] @ params["w"] - self.y[:2]).square().sum() / 2

    hessian, matrix, target = point(Flat(6))
    found = nystrom(hessian, target, drawn_columns(6, 5, generator(0, "columns")), 0.1, sketch_of, block)
    assert found.rank == 2
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(6, dtype=torch.float64), tree.flatten(target))
    assert relative_error(found.value, tree.unflatten(expected, target)) <= 1e-10


def test_a_hessian_of_nothing_leaves_rho_alone() -> None:
    class Linear(Ridge):
        def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
            return (self.x @ params["w"]).sum()

    hessian, _, target = point(Linear(4))
    for sketch_of, block in STORAGES:
        found = nystrom(hessian, target, drawn_columns(4, 2, generator(0, "columns")), 0.1, sketch_of, block)
        assert relative_error(found.value, tree.scale(10.0, target)) <= 1e-15
        assert found.rank == 0


@every_storage
def test_a_column_that_is_not_finite_is_not_hidden(sketch_of: Any, block: int) -> None:
    problem = Ridge(4)
    state, meta, window = checkpoint(problem)
    broken = {"log_penalty": meta["log_penalty"].index_fill(0, torch.tensor([2]), math.inf)}
    hessian = DampedHessian(problem, state.params, broken, window.inner[-1])
    with pytest.raises(Diverged, match="column of the Hessian is not finite"):
        nystrom(hessian, state.params, torch.arange(4), 0.1, sketch_of, block)


def test_columns_are_drawn_uniformly_without_replacement() -> None:
    stream = generator(0, "columns")
    counts = torch.zeros(6)
    for _ in range(3000):
        drawn = drawn_columns(6, 2, stream)
        assert drawn[0] != drawn[1]
        counts[drawn] += 1
    # Each index is drawn with probability 1/3: a standard deviation of 26 around 1000.
    assert bool(((counts - 1000).abs() < 5 * 26).all())
    assert sorted(drawn_columns(6, 100, stream).tolist()) == list(range(6))


@pytest.mark.parametrize("dtype", [torch.float32])
def test_in_float32_it_is_the_formula_to_float32(dtype: torch.dtype) -> None:
    problem = Tanh(dtype=dtype)
    state, meta, window = checkpoint(problem)
    hessian = DampedHessian(problem, state.params, meta, window.inner[-1])
    matrix = hessian.rows(torch.eye(tree.count(state.params), dtype=dtype)).double()
    chosen = drawn_columns(len(matrix), 6, generator(0, "columns"))
    columns = matrix[:, chosen]
    approximation = columns @ torch.linalg.inv(columns[chosen]) @ columns.T
    target = tree.flatten(state.params).double()
    expected = torch.linalg.solve(approximation + 0.1 * torch.eye(len(matrix), dtype=torch.float64), target)
    for sketch_of, block in STORAGES:
        found = tree.flatten(nystrom(hessian, state.params, chosen, 0.1, sketch_of, block).value)
        assert found.dtype == dtype
        assert float((found.double() - expected).norm() / expected.norm()) <= 1e-3
