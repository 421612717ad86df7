"""SAMA is dF/dl - (d2f/dl dw) (du/dg)^T dF/dw at w_K: closed forms for SGD and Adam, and nothing of second order in it."""

from __future__ import annotations

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, relative_error
from small_problems import Counting, LearnedStart, LearningRates, OuterOnly, OuterPenalty, Ridge, Tanh, WeightedExamples

from metabench.autodiff import gradients as first_order
from metabench.autodiff.gradients import inner_gradient, outer_gradient
from metabench.autodiff.inner import run
from metabench.autodiff.products import mixed_product
from metabench.core import InnerState, Problem, Tree, Unsupported, Window, tree


def before_and_after(problem: Problem, state: InnerState, meta: Tree, window: Window) -> tuple[InnerState, InnerState]:
    """Return the inner states before and after the window's last step."""
    before = run(problem, state, meta, window.inner[:-1])
    return before, run(problem, before, meta, window.inner[-1:])


def closed_form(problem: Problem, at: tuple[InnerState, Tree, Window], slope_of_update: Tree) -> Tree:
    """Return dF/dl - (d2f/dl dw) v at w_K with v = slope * dF/dw, leaf by leaf: du/dg is diagonal for the optimisers here."""
    state, meta, window = at
    _, after = before_and_after(problem, state, meta, window)
    due = outer_gradient(problem, after.params, meta, window.outer[-1])
    vector = tree.tree_map(lambda a, b: a * b, slope_of_update, due.params)
    return tree.subtract(due.meta, mixed_product(problem, after.params, meta, window.inner[-1], vector))


@pytest.mark.parametrize("kind", [Tanh, OuterPenalty, WeightedExamples])
@pytest.mark.parametrize(("optimiser", "factor"), [("sgd", 1.0), ("momentum", 1.0), ("nesterov", 1.9)])
def test_for_sgd_the_adaptation_is_the_learning_rate(kind: type[Tanh], optimiser: str, factor: float) -> None:
    problem = kind(optimiser, inner_steps=3)
    at = checkpoint(problem)
    slope = tree.tree_map(lambda leaf: torch.full_like(leaf, 0.1 * factor), at[0].params)
    found = call("sama", problem, *at, epsilon=1e-4).meta
    assert relative_error(found, closed_form(problem, at, slope)) <= 1e-7


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("kind", [Tanh, OuterPenalty, WeightedExamples])
def test_for_adam_the_adaptation_is_the_derivative_of_its_last_update(kind: type[Tanh], optimiser: str) -> None:
    problem = kind(optimiser, inner_steps=3)
    at = checkpoint(problem)
    _, meta, window = at
    before, _ = before_and_after(problem, *at)
    gradient = inner_gradient(problem, before.params, meta, window.inner[-1])
    count = float(before.optimiser["step"]["count"]) + 1
    c1, c2, eps = 1 - 0.9**count, 1 - 0.999**count, 1e-8

    def slope(g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # u = lr (m'/c1) / (root + eps), root = sqrt(v'/c2 + eps^2), m' = 0.9 m + 0.1 g, v' = 0.999 v + 0.001 g^2
        first, second = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = (second / c2 + eps**2).sqrt()
        return 0.02 / c1 * (0.1 / (root + eps) - first * (0.001 * g / c2 / root) / (root + eps) ** 2)

    expected = tree.tree_map(slope, gradient, before.optimiser["first"], before.optimiser["second"])
    found = call("sama", problem, *at, epsilon=1e-4).meta
    assert relative_error(found, closed_form(problem, at, expected)) <= 1e-6


def test_on_ridge_regression_with_sgd_it_is_dense_algebra_at_any_width() -> None:
    problem = Ridge(inner_steps=4)
    state, meta, window = checkpoint(problem)
    for width in (1e-3, 0.01, 1.0):
        found = call("sama", problem, state, meta, window, epsilon=width)
        params = found.state.params
        expected = -0.1 * problem.mixed(params, meta) * problem.outer_slope(params)
        assert relative_error(found.meta, {"log_penalty": expected}) <= 1e-11


def test_its_terms_are_those_at_the_last_iterate_and_not_the_one_before() -> None:
    problem = Ridge(inner_steps=1, learning_rate=0.5)
    state, meta, window = checkpoint(problem)
    found = call("sama", problem, state, meta, window)
    at_last = -0.5 * problem.mixed(found.state.params, meta) * problem.outer_slope(found.state.params)
    before = -0.5 * problem.mixed(state.params, meta) * problem.outer_slope(found.state.params)
    assert relative_error({"log_penalty": before}, {"log_penalty": at_last}) > 0.1
    assert relative_error(found.meta, {"log_penalty": at_last}) <= 1e-11
    assert relative_error(call("t1t2", problem, state, meta, window).meta, {"log_penalty": before}) <= 1e-12


def test_where_the_hessian_is_a_multiple_of_the_identity_it_is_the_implicit_hypergradient_in_another_length() -> None:
    problem = Ridge(inner_steps=3, learning_rate=0.1)
    problem.x = torch.zeros_like(problem.x)  # the penalty alone is left: H = exp(l) I
    state, _, window = checkpoint(problem)
    meta = {"log_penalty": torch.full((5,), -0.7, dtype=torch.float64)}
    found = call("sama", problem, state, meta, window)
    implicit = problem.implicit(found.state.params, meta)
    assert (
        relative_error(found.meta, tree.scale(0.1 * torch.exp(torch.tensor(-0.7, dtype=torch.float64)), implicit))
        <= 1e-11
    )


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_it_takes_three_first_order_passes_beyond_the_run_and_none_of_second_order(
    optimiser: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = checkpoint(WeightedExamples(optimiser, inner_steps=steps))
    graphs: list[bool] = []
    grad = torch.autograd.grad

    def watched(*arguments, **options):  # type: ignore[no-untyped-def]
        graphs.append(bool(options.get("create_graph")))
        return grad(*arguments, **options)

    monkeypatch.setattr(first_order.torch.autograd, "grad", watched)
    problem = Counting(WeightedExamples(optimiser, inner_steps=steps))
    call("sama", problem, *at)  # type: ignore[arg-type]
    assert problem.inner_losses == steps + 2  # and dF/dw
    assert not any(graphs)


def test_where_the_outer_loss_alone_sees_the_meta_parameters_it_is_the_direct_derivative() -> None:
    problem = OuterOnly("adam")
    at = checkpoint(problem)
    assert relative_error(call("sama", problem, *at).meta, call("unrolled", problem, *at).meta) <= 1e-14


def test_what_it_does_not_see_is_refused() -> None:
    for kind in (LearnedStart, LearningRates):
        problem = kind()
        with pytest.raises(Unsupported, match="meta-parameters enter the inner update or the start"):
            call("sama", problem, *checkpoint(problem))
    problem = Tanh(inner_steps=2)
    state, meta, window = checkpoint(problem)
    with pytest.raises(Unsupported, match="outer losses are due before the end"):
        call("sama", problem, state, meta, Window(window.inner, (window.outer[-1], window.outer[-1])))
