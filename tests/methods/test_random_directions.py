"""Forward gradients and ES Jacobians: what their draws give, how they vary, and memory that grows neither with K nor with |l|."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, relative_error
from small_problems import LearnedStart, LearningRates, SummedOuter, Tanh, WeightedExamples

from metabench.autodiff import differences
from metabench.core import Problem, Tree, Unsupported, tree
from metabench.core.randomness import generator, perturbation
from metabench.measure.memory.meter import measure_memory

KINDS = [lambda: Tanh("adam"), lambda: LearningRates("momentum"), SummedOuter, LearnedStart]


def projected(problem: Problem, at: Any, draws: int, noise: str = "sign") -> Tree:
    """Return the mean of (g . v) v over the draws of a test's stream, g by reverse mode."""
    g, stream = call("unrolled", problem, *at).meta, generator(0, "test")
    drawn = [perturbation(at[1], noise, stream) for _ in range(draws)]  # type: ignore[arg-type]
    return tree.mean([tree.scale(tree.dot(g, v), v) for v in drawn])


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(("draws", "together"), [(1, 1), (4, 1), (4, 3)])
def test_a_forward_gradient_is_the_projection_on_its_draws(make: Any, draws: int, together: int) -> None:
    problem = make()
    at = checkpoint(problem)
    found = call("forward_gradient", problem, *at, draws=draws, together=together)
    assert relative_error(found.meta, projected(problem, at, draws)) <= 1e-10
    plain = call("none", problem, *at)
    assert relative_error(found.state.params, plain.state.params) <= 1e-13
    assert found.outer_loss == pytest.approx(plain.outer_loss)


def test_the_variance_of_signs_is_the_number_of_meta_parameters_less_one() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    g = call("unrolled", problem, state, meta, window).meta
    squares = []
    for seed in range(400):
        found = call("forward_gradient", problem, state, meta, window, seed=seed).meta
        squares.append(float(tree.norm(tree.subtract(found, g))) ** 2)
    count = tree.count(meta)
    # |(g . v) v - g|^2 = (|l| - 2) (g . v)^2 + |g|^2, of mean (|l| - 1) |g|^2.
    assert sum(squares) / 400 / float(tree.norm(g)) ** 2 == pytest.approx(count - 1, rel=0.2)


@pytest.mark.parametrize("make", KINDS)
def test_an_es_jacobian_tends_to_the_forward_gradient_of_its_draws(make: Any) -> None:
    problem = make()
    at = checkpoint(problem)
    g, along = call("unrolled", problem, *at).meta, projected(problem, at, 3, "gaussian")
    # The direct term is not projected.
    direct = call("es_jacobian", problem, *at, mu=1e6, draws=1, noise="sign")
    errors = []
    for mu in (1e-2, 1e-3, 1e-4):
        found = call("es_jacobian", problem, *at, mu=mu, draws=3).meta
        shares = tree.subtract(g, share_through_the_run(problem, at))
        expected = tree.add(shares, tree.subtract(along, projection_of(shares, at, 3)))
        errors.append(relative_error(found, expected))
    assert errors[0] < 0.3 and errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]
    assert direct.outer_loss == pytest.approx(call("none", problem, *at).outer_loss)


def share_through_the_run(problem: Problem, at: Any) -> Tree:
    """Return the part of the hypergradient that goes through the inner run: all of it but the outer losses' direct terms."""
    state, meta, window = at
    total = call("unrolled", problem, state, meta, window).meta
    current = dataclasses.replace(state, params=tree.detach(problem.start(state.params, meta)))
    for inner, outer in zip(window.inner, window.outer, strict=True):
        from metabench.autodiff.gradients import outer_gradient
        from metabench.autodiff.inner import step

        current = step(problem, current, meta, inner)
        if outer is not None:
            total = tree.subtract(total, outer_gradient(problem, current.params, meta, outer).meta)
    return total


def projection_of(vector: Tree, at: Any, draws: int) -> Tree:
    stream = generator(0, "test")
    drawn = [perturbation(at[1], "gaussian", stream) for _ in range(draws)]
    return tree.mean([tree.scale(tree.dot(vector, v), v) for v in drawn])


def test_a_width_below_rounding_is_refused_in_words() -> None:
    problem = Tanh()
    at = checkpoint(problem)
    with pytest.raises(Unsupported, match="the width mu = 1e-18 is below 10 times the rounding of the meta-parameters"):
        call("es_jacobian", problem, *at, mu=1e-18)


@pytest.mark.parametrize("name", ["forward_gradient", "es_jacobian"])
def test_half_the_mean_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted mistake: terms are added and not averaged. The closed form above tells."""
    problem = Tanh()
    at = checkpoint(problem)
    right = call(name, problem, *at, draws=4).meta
    plain = differences.PairedMean.__init__
    monkeypatch.setattr(differences.PairedMean, "__init__", lambda self, like, pairs: plain(self, like, 1))
    assert relative_error(call(name, problem, *at, draws=4).meta, right) > 0.5


@pytest.mark.parametrize("name", ["forward_gradient", "es_jacobian", "drmad", "single_loop"])
def test_memory_beside_the_batches_is_flat_in_inner_steps(name: str) -> None:
    peaks = []
    for steps in (4, 64):
        problem = Tanh(inner_steps=steps)
        state, meta, window = checkpoint(problem)
        arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
        call(name, problem, state, meta, window)
        peaks.append(measure_memory(lambda: call(name, problem, state, meta, window), arguments, "cpu")[1].dynamic_bytes)  # noqa: B023
    assert peaks[1] <= 1.02 * peaks[0]


def test_memory_of_a_forward_gradient_is_flat_in_meta_parameters() -> None:
    """But for the meta-parameters themselves: forward mode holds a tangent for each."""
    problem = WeightedExamples()
    state, meta, window = checkpoint(problem)
    arguments = (state.params, state.optimiser, meta, window.inner, window.outer)

    def peak(name: str) -> int:
        call(name, problem, state, meta, window)
        return measure_memory(lambda: call(name, problem, state, meta, window), arguments, "cpu")[1].dynamic_bytes

    assert peak("forward_gradient") < 0.5 * peak("forward")
    assert torch.is_tensor(next(iter(meta.values())))
