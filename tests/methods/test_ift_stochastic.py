"""Hessian products on single batches, and a Fisher matrix in the Hessian's place: their dense formulas, and what they need."""

from __future__ import annotations

import pytest
import torch
from bilevel import call, checkpoint, relative_error
from small_problems import LearnedStart, LearningRates, Ridge, SummedOuter, Tanh

from metabench.autodiff.inner import run
from metabench.certify.references import expand
from metabench.core import Diverged, Problem, Unsupported, Window, tree
from metabench.core.randomness import generator


def hessians(problem: Problem, at: tuple, params: dict) -> tuple[list[torch.Tensor], object]:
    _, meta, window = at
    outer = window.outer[-1]
    of = [expand(problem, params, meta, batch, outer, 0.0) for batch in window.inner]
    return [one.hessian for one in of], of[-1]


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_every_product_is_on_another_batch(steps: int) -> None:
    problem = Tanh(inner_steps=4)
    at = checkpoint(problem)
    found = call("ift_stochastic", problem, *at, steps=steps, scale=0.2, truncation="sum")
    batches, last = hessians(problem, at, found.state.params)
    term = total = last.outer_w  # type: ignore[attr-defined]
    for j in range(steps - 1):
        # The one before the last, the one before that, ..., and around.
        term = term - 0.2 * batches[(2 - j) % 4] @ term
        total = total + term
    expected = tree.unflatten(last.implicit(0.2 * total), at[1])  # type: ignore[attr-defined]
    assert relative_error(found.meta, expected) <= 1e-10
    assert found.diagnostics["products"] == steps - 1
    if steps > 1:
        # A planted mistake: one batch for all, as `ift_neumann` has it.
        other = call("ift_neumann", problem, *at, steps=steps - 1, scale=0.2).meta
        assert relative_error(found.meta, other) > 1e-4


def test_a_random_truncation_has_the_sum_as_its_mean() -> None:
    problem = Tanh(inner_steps=3)
    at = checkpoint(problem)
    whole = call("ift_stochastic", problem, *at, steps=4, scale=0.2, truncation="sum").meta
    drawn = {}
    for seed in range(40):
        found = call("ift_stochastic", problem, *at, steps=4, scale=0.2, seed=seed)
        drawn[int(found.diagnostics["products"])] = found.meta
    assert sorted(drawn) == [0, 1, 2, 3]
    assert relative_error(tree.mean(list(drawn.values())), whole) <= 1e-12
    first = int(torch.randint(4, (), generator=generator(0, "test")))
    assert call("ift_stochastic", problem, *at, steps=4).diagnostics["products"] == first


def test_a_scale_that_is_too_large_diverges_in_words() -> None:
    problem = Tanh()
    with pytest.raises(Diverged, match="of the series is not finite: is the scale 1e\\+200 too large"):
        call("ift_stochastic", problem, *checkpoint(problem), steps=5, scale=1e200, truncation="sum")


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_fisher_matrix_is_that_of_the_runs_gradients(decay: float) -> None:
    from metabench.autodiff.gradients import inner_gradient
    from metabench.autodiff.optimisers import inner_optimiser

    problem = Tanh(inner_steps=5)
    problem.optimiser = inner_optimiser("sgd", 0.1, decay)
    state, meta, window = checkpoint(problem)
    found = call("ift_fisher", problem, state, meta, window, damping=0.2)
    slopes, now = [], state
    for batch in window.inner:
        slopes.append(tree.flatten(inner_gradient(problem, now.params, meta, batch)))
        now = run(problem, now, meta, [batch])
    stacked, outer = torch.stack(slopes), window.outer[-1]
    assert outer is not None
    at = expand(problem, now.params, meta, window.inner[-1], outer, decay)
    matrix = stacked.T @ stacked / 5 + (0.2 + decay) * torch.eye(stacked.shape[1], dtype=torch.float64)
    expected = tree.unflatten(at.implicit(torch.linalg.solve(matrix, at.outer_w)), meta)
    assert relative_error(found.meta, expected) <= 1e-10 and found.diagnostics["rank"] == 5
    # Planted mistakes: the sum in place of the mean, and a damping that is off.
    identity = torch.eye(len(matrix), dtype=torch.float64)
    for wrong in (stacked.T @ stacked + (0.2 + decay) * identity, stacked.T @ stacked / 5 + (0.2 + decay + 0.3) * identity):
        other = tree.unflatten(at.implicit(torch.linalg.solve(wrong, at.outer_w)), meta)
        assert relative_error(found.meta, other) > 1e-3


def test_one_gradient_at_a_minimum_says_nothing_of_the_hessian() -> None:
    """At the minimum of a whole batch its gradient is zero, and so is its Fisher matrix: damping is all that is left."""
    problem = Ridge(4)
    meta = problem.initial()
    params = problem.minimum(meta)
    state = problem.initial_state()[0]
    window = Window.ending_in(({},), {})
    found = call("ift_fisher", problem, type(state)(params, state.optimiser), meta, window, damping=0.5)
    expected = {"log_penalty": -problem.mixed(params, meta) * problem.outer_slope(params) / 0.5}
    assert relative_error(found.meta, expected) <= 1e-10


@pytest.mark.parametrize("name", ["ift_stochastic", "ift_fisher", "ift_minres"])
@pytest.mark.parametrize("kind", [LearningRates, LearnedStart, SummedOuter])
def test_what_a_minimum_does_not_see_is_refused(name: str, kind: type[Problem]) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match=r"meta-parameters enter|outer losses are due"):
        call(name, problem, *checkpoint(problem))
