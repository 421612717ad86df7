"""Second-order products equal the dense derivatives, by either mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from bilevel import checkpoint, directions, make_problem, relative_error
from small_problems import LearningRates, Ridge, Tanh, WeightedExamples

from metabench.autodiff.derivatives import OnFlatGraphs, Recorded
from metabench.autodiff.products import hessian_operator, mixed_by_differences, mixed_product
from metabench.core import Batch, Problem, Tree, tree


class SecondOrder(NamedTuple):
    """(d2f/dw2) v and (d2f/dl dw) v."""

    hessian: Tree
    mixed: Tree


def recorded(problem: Problem, params: Tree, meta: Tree, batch: Batch, direction: Tree) -> SecondOrder:
    zero = tree.zeros_like(params)
    return SecondOrder(*Recorded(problem).products(params, meta, batch, direction, into=zero, mixed=True))


def on_flat_graphs(problem: Problem, params: Tree, meta: Tree, batch: Batch, direction: Tree) -> SecondOrder:
    zero = tree.zeros_like(params)
    return SecondOrder(*OnFlatGraphs(problem).products(params, meta, batch, direction, into=zero, mixed=True))


MODES = pytest.mark.parametrize("mode", [recorded, on_flat_graphs])


def dense(problem: Problem, params: Tree, meta: Tree, batch: Batch, direction: Tree) -> SecondOrder:
    """Return both products from the Hessian and the matrix of mixed derivatives, formed by torch.func."""

    def loss(w: torch.Tensor, meta_vector: torch.Tensor) -> torch.Tensor:
        return problem.inner_loss(tree.unflatten(w, params), tree.unflatten(meta_vector, meta), batch)

    at, v = (tree.flatten(params), tree.flatten(meta)), tree.flatten(direction)
    hessian = torch.func.hessian(loss)(*at)
    mixed = torch.func.jacrev(torch.func.grad(loss), argnums=1)(*at)
    return SecondOrder(tree.unflatten(hessian @ v, params), tree.unflatten(v @ mixed, meta))


@MODES
@pytest.mark.parametrize(
    "make",
    [
        lambda: make_problem("toy_1d"),
        lambda: make_problem("regularisation", start=-1.0),
        lambda: make_problem("label_noise", dataset="digits", size="conv8", hidden=3, detach=False),
        Tanh,
        Ridge,
    ],
)
def test_products_equal_the_dense_derivatives(mode: Callable[..., SecondOrder], make: Callable[[], Problem]) -> None:
    problem = make()
    state, meta, window = checkpoint(problem)
    (direction,) = directions(state.params, 1)
    found = mode(problem, state.params, meta, window.inner[0], direction)
    if tree.count(state.params) < 1000:
        expected = dense(problem, state.params, meta, window.inner[0], direction)
        assert relative_error(found.hessian, expected.hessian) <= 1e-12
        assert relative_error(found.mixed, expected.mixed) <= 1e-12
    hessian = hessian_operator(problem, state.params, meta, window.inner[0])
    assert relative_error(hessian(direction), found.hessian) <= 1e-12
    assert relative_error(mixed_product(problem, state.params, meta, window.inner[0], direction), found.mixed) <= 1e-12
    assert not any(leaf.requires_grad for part in found for leaf in part.values())


def test_one_recorded_gradient_serves_many_products_and_they_are_linear_and_symmetric() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    hessian = hessian_operator(problem, state.params, meta, window.inner[0])
    u, v = directions(state.params, 2)
    torch.testing.assert_close(tree.dot(u, hessian(v)), tree.dot(v, hessian(u)), rtol=1e-12, atol=0)
    both = hessian(tree.add_scaled(u, -3.0, v))
    assert relative_error(both, tree.add_scaled(hessian(u), -3.0, hessian(v))) <= 1e-13


@MODES
def test_a_loss_that_does_not_see_the_meta_parameters_has_zero_mixed_products(mode: Callable[..., SecondOrder]) -> None:
    problem = LearningRates()
    state, meta, window = checkpoint(problem)
    (direction,) = directions(state.params, 1)
    found = mode(problem, state.params, meta, window.inner[0], direction)
    assert list(found.mixed) == list(meta)
    assert not tree.flatten(found.mixed).any()
    assert tree.flatten(found.hessian).any()


class Linear(Tanh):
    """An inner loss that is linear in one parameter and leaves the others out."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return meta["shift"].exp() * params["shift"].sum()


class Silent(Tanh):
    """An inner loss that sees neither parameters nor meta-parameters."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return batch["targets"].square().mean()


@MODES
def test_parameters_that_a_loss_leaves_out_have_zero_products(mode: Callable[..., SecondOrder]) -> None:
    problem: Problem = Linear()
    state, meta, window = checkpoint(problem)
    (direction,) = directions(state.params, 1)
    found = mode(problem, state.params, meta, window.inner[0], direction)
    assert not tree.flatten(found.hessian).any()
    expected = meta["shift"].exp() * direction["shift"].sum()
    torch.testing.assert_close(found.mixed["shift"], expected, rtol=1e-13, atol=0)
    assert float(found.mixed["in"]) == 0
    silent = mode(Silent(), state.params, meta, window.inner[0], direction)
    assert not any(tree.flatten(part).any() for part in silent)


@pytest.mark.parametrize("kind", [Recorded, OnFlatGraphs])
def test_one_product_alone_is_that_of_the_pair(kind: type[Recorded | OnFlatGraphs]) -> None:
    problem = WeightedExamples()
    state, meta, window = checkpoint(problem)
    (direction,) = directions(state.params, 1)
    at = (state.params, meta, window.inner[0], direction)
    both = kind(problem).products(*at, into=tree.zeros_like(state.params), mixed=True)
    nothing, mixed = kind(problem).products(*at, into=None, mixed=True)
    hessian, none = kind(problem).products(*at, into=tree.zeros_like(state.params), mixed=False)
    assert nothing == {} and none == {}
    assert relative_error(hessian, both[0]) <= 1e-13
    assert relative_error(mixed, both[1]) <= 1e-13


def test_central_differences_tend_to_the_mixed_product_with_the_square_of_their_width() -> None:
    problem = WeightedExamples()
    state, meta, window = checkpoint(problem)
    (direction,) = directions(state.params, 1)
    at = (problem, state.params, meta, window.inner[0])
    exact = mixed_product(*at, direction)
    wide, narrow = (relative_error(mixed_by_differences(*at, direction, width), exact) for width in (0.1, 0.01))
    assert wide / narrow == pytest.approx(100, rel=0.1)
    # The width is a distance in the parameters: the length of the direction scales the product and moves no point.
    for length in (1e-6, 7.0):
        scaled = mixed_by_differences(*at, tree.scale(length, direction), 0.1)
        assert relative_error(scaled, tree.scale(length, mixed_by_differences(*at, direction, 0.1))) <= 1e-9


def test_differences_are_exact_for_a_quadratic_and_zero_along_nothing() -> None:
    problem = Ridge()
    state, meta, window = checkpoint(problem)
    (direction,) = directions(state.params, 1)
    at = (problem, state.params, meta, window.inner[0])
    assert relative_error(mixed_by_differences(*at, direction, 3.0), mixed_product(*at, direction)) <= 1e-13
    assert not tree.flatten(mixed_by_differences(*at, tree.zeros_like(direction), 3.0)).any()
