"""EvoGrad equals its formula on fixed noise, and its mean is the one-step hypergradient with step size sigma^2/tau (1 - 1/N).

Monte-Carlo bounds are five standard errors of the mean: by the central limit theorem a correct estimator misses one with probability
6e-7. The streams are seeded, so that a test that passes goes on to pass. Means over all patterns of signs have no such error.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, make_problem, relative_error
from small_problems import OuterOnly, OuterPenalty, Ridge, Tanh, WeightedExamples

from metabench.core import Tree, tree
from metabench.core.randomness import generator, perturbation
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method

STANDARD_ERRORS = 5


def drawn_noise(params: Tree, copies: int, noise: str, seed: int) -> list[Tree]:
    """Return the perturbations that `call` gives EvoGrad: copy after copy."""
    stream = generator(seed, "test")
    return [perturbation(params, noise, stream) for _ in range(copies)]  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["sign", "gaussian"])
@pytest.mark.parametrize(("copies", "sigma", "tau"), [(2, 0.001, 0.05), (2, 0.5, 0.5), (5, 0.1, 1.0)])
def test_on_the_toy_it_is_the_papers_formula(copies: int, sigma: float, tau: float, noise: str) -> None:
    problem = make_problem("toy_1d", inner_steps=1)
    state, meta, window = checkpoint(problem)
    found = call("evograd", problem, state, meta, window, seed=3, copies=copies, sigma=sigma, tau=tau, noise=noise)
    penalty, x = float(meta["l"]), float(state.params["x"])
    points = [x + sigma * float(one["x"]) for one in drawn_noise(state.params, copies, noise, 3)]
    losses = [(at - 1) ** 2 + penalty * at**2 for at in points]
    powers = [math.exp(-(loss - min(losses)) / tau) for loss in losses]
    weights = [power / sum(powers) for power in powers]
    mixture = sum(w * at for w, at in zip(weights, points, strict=True))
    # d(loss_k)/dl = w_k^2 and d(weight_k)/dl = -weight_k/tau (w_k^2 - sum_j weight_j w_j^2)
    mean_slope = sum(w * at**2 for w, at in zip(weights, points, strict=True))
    moved = sum(-w / tau * (at**2 - mean_slope) * at for w, at in zip(weights, points, strict=True))
    expected = 2 * (mixture - 0.5) * moved
    assert float(found.meta["l"]) == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert found.outer_loss == pytest.approx((mixture - 0.5) ** 2, rel=1e-12)


@pytest.mark.parametrize("noise", ["sign", "gaussian"])
@pytest.mark.parametrize("copies", [2, 7])
def test_on_regularisation_it_is_the_papers_formula(copies: int, noise: str) -> None:
    sigma, tau = 0.05, 0.1
    problem = make_problem("regularisation", inner_steps=3, start=-2.0)
    state, meta, window = checkpoint(problem)
    found = call("evograd", problem, state, meta, window, seed=1, copies=copies, sigma=sigma, tau=tau, noise=noise)
    # The copies are made of the parameters before the last step: two of the three steps lead there.
    params = state.params
    inner, outer = window.inner[-1], window.outer[-1]
    assert outer is not None
    for _ in range(2):
        probability = (inner["inputs"] @ params["weight"] + params["bias"]).softmax(1)
        surprise = (probability - torch.nn.functional.one_hot(inner["targets"], 10)) / len(probability)
        slope = inner["inputs"].T @ surprise + meta["log_penalty"].exp()[:, None] * params["weight"]
        params = {"weight": params["weight"] - 0.5 * slope, "bias": params["bias"] - 0.5 * surprise.sum(0)}
    copied = [tree.add_scaled(params, sigma, one) for one in drawn_noise(params, copies, noise, 1)]
    losses = torch.stack([problem.inner_loss(one, meta, inner) for one in copied])
    slopes = torch.stack([0.5 * meta["log_penalty"].exp() * one["weight"].square().sum(1) for one in copied])
    weights = (-losses / tau).softmax(0)
    of_weights = -weights[:, None] / tau * (slopes - weights @ slopes)  # [copies, features]
    mixture = {
        name: torch.einsum("k,k...->...", weights, torch.stack([one[name] for one in copied])) for name in params
    }
    probability = (outer["inputs"] @ mixture["weight"] + mixture["bias"]).softmax(1)
    surprise = (probability - torch.nn.functional.one_hot(outer["targets"], 10)) / len(probability)
    along = torch.stack(
        [(one["weight"] * (outer["inputs"].T @ surprise)).sum() + one["bias"] @ surprise.sum(0) for one in copied]
    )
    assert relative_error(found.meta, {"log_penalty": along @ of_weights}) <= 1e-10


def mean_and_error(problem: Any, at: Any, draws: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found = torch.stack([tree.flatten(call("evograd", problem, *at, seed=i, **options).meta) for i in range(draws)])
    return found.mean(0), found.std(0) / draws**0.5


@pytest.mark.parametrize("noise", ["sign", "gaussian"])
def test_its_mean_is_the_one_step_hypergradient_with_another_step_size(noise: str) -> None:
    sigma, tau = 1e-3, 0.05
    problem = Ridge(3)
    state, meta, _ = at = checkpoint(problem, windows_before=0)
    mean, error = mean_and_error(problem, at, 600, copies=2, sigma=sigma, tau=tau, noise=noise)
    expected = -(sigma**2) / tau * (1 - 1 / 2) * problem.mixed(state.params, meta) * problem.outer_slope(state.params)
    assert bool(((mean - expected).abs() <= STANDARD_ERRORS * error).all())
    # The bound can tell: neither zero nor the gradient without the factor (1 - 1/N) passes it.
    assert bool((expected.abs() > STANDARD_ERRORS * error).any())
    assert bool(((mean - 2 * expected).abs() > STANDARD_ERRORS * error).any())


@pytest.mark.parametrize(("features", "copies"), [(1, 2), (1, 4), (1, 6), (2, 2), (3, 2), (2, 3)])
def test_the_mean_over_all_patterns_of_signs_has_the_factor_one_minus_one_over_n(features: int, copies: int) -> None:
    sigma, tau = 1e-5, 0.05
    problem = Ridge(features)
    state, meta, _ = at = checkpoint(problem, windows_before=0)
    seeds: dict[tuple[float, ...], int] = {}
    for seed in itertools.count():
        if len(seeds) == 2 ** (features * copies):
            break
        noise = drawn_noise(state.params, copies, "sign", seed)
        seeds.setdefault(tuple(float(v) for one in noise for v in one["w"]), seed)
    options = {"copies": copies, "sigma": sigma, "tau": tau}
    mean = tree.mean([call("evograd", problem, *at, seed=seed, **options).meta for seed in seeds.values()])
    slope = -problem.mixed(state.params, meta) * problem.outer_slope(state.params)
    expected = {"log_penalty": sigma**2 / tau * (1 - 1 / copies) * slope}
    # What is left is of the next order: sigma/tau times a slope of the inner loss.
    assert relative_error(mean, expected) <= 1e-3


def test_its_mean_is_that_of_t1t2_over_the_learning_rate() -> None:
    rate = 1e-6  # so small that the outer gradient after the step is that before it, where EvoGrad takes it
    problem = make_problem("toy_1d", inner_steps=1, learning_rate=rate)
    at = checkpoint(problem, windows_before=0)
    mean, error = mean_and_error(problem, at, 500, copies=2, sigma=0.01, tau=0.5, noise="gaussian")
    expected = 0.01**2 / 0.5 * 0.5 * float(call("t1t2", problem, *at).meta["l"]) / rate
    assert abs(float(mean) - expected) <= STANDARD_ERRORS * float(error) < abs(expected)


def test_the_direct_term_of_the_outer_loss_is_not_scaled() -> None:
    problem = OuterPenalty(inner_steps=1)
    state, meta, window = checkpoint(problem)
    found = call("evograd", problem, state, meta, window, sigma=1e-7)
    leaves = tree.leaves_for_grad(meta)
    outer = window.outer[-1]
    assert outer is not None
    direct = torch.autograd.grad(problem.outer_loss(state.params, leaves, outer), list(leaves.values()))
    assert relative_error(found.meta, dict(zip(meta, direct, strict=True))) <= 1e-5


def test_its_draws_come_from_the_generator_alone() -> None:
    problem = make_problem("regularisation", inner_steps=2)
    at = checkpoint(problem)
    first = call("evograd", problem, *at, seed=0)
    torch.manual_seed(12345)
    assert relative_error(call("evograd", problem, *at, seed=0).meta, first.meta) == 0
    assert relative_error(call("evograd", problem, *at, seed=1).meta, first.meta) > 1e-3


@pytest.mark.parametrize("noise", ["sign", "gaussian"])
@pytest.mark.parametrize("kind", [Tanh, OuterPenalty, OuterOnly, WeightedExamples])
def test_copies_taken_together_give_what_copies_one_by_one_give(kind: Any, noise: str) -> None:
    problem = kind(inner_steps=3)
    at = checkpoint(problem)
    options = {"copies": 5, "sigma": 0.05, "noise": noise}
    alone, together = (call("evograd", problem, *at, together=flag, **options) for flag in (False, True))
    assert relative_error(together.meta, alone.meta) <= 1e-12
    assert together.outer_loss == pytest.approx(alone.outer_loss, rel=1e-13)
    for name, leaf in alone.state.params.items():
        assert torch.equal(leaf, together.state.params[name])


def test_the_generator_is_left_after_the_copies_noise_and_nothing_more() -> None:
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    stream, expected = generator(0, "test"), generator(0, "test")
    chosen = method("evograd")
    chosen(problem, state, meta, window, chosen.options(copies=3), stream)
    for _ in range(3):
        perturbation(state.params, "sign", expected)
    assert torch.equal(stream.get_state(), expected.get_state())


def test_its_memory_does_not_grow_with_the_copies_and_is_below_that_of_t1t2() -> None:
    problem = make_problem("label_noise", dataset="digits", size="mlp256", inner_steps=1, batch=40, optimiser="sgd")
    at = checkpoint(problem)
    arguments = [at[0].params, at[1], [dict(batch) for batch in at[2].inner]]

    def peak(name: str, **options: Any) -> int:
        call(name, problem, *at, **options)
        return measure_memory(lambda: call(name, problem, *at, **options), arguments, "cpu")[1].dynamic_bytes

    two, ten = peak("evograd", copies=2), peak("evograd", copies=10)
    size = 8 * tree.count(at[0].params)
    # What grows is a gradient with respect to the 31 meta-parameters a copy, and not a copy's parameters.
    assert ten - two < 0.1 * size
    assert two < peak("t1t2")
    assert peak("evograd", copies=10, together=True) > ten + 5 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_signs_are_fair_and_independent_of_their_neighbours(dtype: torch.dtype) -> None:
    like = {"matrix": torch.zeros(501, 64, dtype=dtype), "scalar": torch.zeros((), dtype=dtype)}
    drawn = perturbation(like, "sign", generator(0, "signs"))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in drawn.items()} == {
        name: (leaf.shape, dtype) for name, leaf in like.items()
    }
    assert all(bool((leaf.abs() == 1).all()) for leaf in drawn.values())
    signs = drawn["matrix"].double()
    # 64 means and 2016 correlations of 501 signs, each within 5 standard errors: missed by chance with probability 1e-3.
    assert float(signs.mean(0).abs().max()) <= STANDARD_ERRORS / 501**0.5
    products = signs.T @ signs / 501 - torch.eye(64, dtype=torch.float64)
    assert float(products.abs().max()) <= STANDARD_ERRORS / 501**0.5
