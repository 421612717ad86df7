"""Inner optimisers equal torch.optim step for step, are differentiable everywhere, and take settings that are learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bilevel import OPTIMISERS, difference, directions, relative_error

from metabench.autodiff.optimisers import (
    INNER_OPTIMISERS,
    SGD,
    Adam,
    Momentum,
    PerParameter,
    Rate,
    RMSprop,
    inner_optimiser,
    scheduled,
)
from metabench.core import Tree, tree
from metabench.core.randomness import generator
from metabench.core.schedules import Constant, Cosine, WarmUp

RATE = 0.05
PEERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda leaves, **k: torch.optim.SGD(leaves, momentum=0.9, **k),
    "nesterov": lambda leaves, **k: torch.optim.SGD(leaves, momentum=0.9, nesterov=True, **k),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}


def start() -> Tree:
    stream = generator(0, "start")
    return {k: torch.randn(s, generator=stream, dtype=torch.float64) for k, s in {"w": (4, 3), "b": ()}.items()}


def loss(params: Tree, step: int = 0) -> torch.Tensor:
    """A loss that is not quadratic and has slopes of 2 to 4: away from zero Adam's two denominators agree to rounding."""
    w, b = params["w"], params["b"]
    return (3 * w + (w + step).sin()).sum() + 3 * b + (b - step).cos()


def gradient(params: Tree, step: int = 0) -> Tree:
    leaves = tree.leaves_for_grad(params)
    return dict(zip(leaves, torch.autograd.grad(loss(leaves, step), list(leaves.values())), strict=True))


def test_every_name_is_compared_with_a_peer() -> None:
    assert tuple(PEERS) == tuple(INNER_OPTIMISERS) == OPTIMISERS


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_twenty_steps_equal_torch_optim(name: str, weight_decay: float) -> None:
    ours, theirs = start(), tree.leaves_for_grad(start())
    optimiser = inner_optimiser(name, RATE, weight_decay)
    peer = PEERS[name](list(theirs.values()), lr=RATE, weight_decay=weight_decay)
    state = optimiser.init(ours)
    for step in range(20):
        found = gradient(ours, step)
        # The denominators differ by sqrt(v + eps^2) - sqrt(v) < eps^2 / (2 sqrt(v)): below rounding where slopes are about 1.
        ours, state = optimiser.update(found, ours, state, {})
        peer.zero_grad()
        loss(theirs, step).backward()
        peer.step()
        assert relative_error(ours, tree.detach(theirs)) <= 1e-13


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-8, 1e-4])
def test_small_gradients_move_no_further_than_torchs_and_half_as_far_at_the_least(name: str, size: float) -> None:
    params = {"w": torch.zeros(3, dtype=torch.float64)}
    small = {"w": torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64) * size}
    moved, _ = inner_optimiser(name, 1.0).update(small, params, inner_optimiser(name, 1.0).init(params), {})
    theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theirs.grad = small["w"].clone()
    PEERS[name]([theirs], lr=1.0, weight_decay=0.0).step()
    # sqrt(v) + eps <= sqrt(v + eps^2) + eps <= 2 (sqrt(v) + eps)
    ours, peer = moved["w"].abs(), theirs.detach().abs()
    assert bool((ours <= peer * (1 + 1e-12)).all())
    assert bool((ours >= peer / 2 * (1 - 1e-12)).all())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_update_changes_nothing_in_place(name: str) -> None:
    params, slope = start(), gradient(start())
    optimiser = inner_optimiser(name, RATE, 0.1)
    state = optimiser.init(params)
    _, state = optimiser.update(slope, params, state, {})
    kept = [leaf.clone() for trees in (params, slope, *state.values()) for leaf in trees.values()]
    optimiser.update(slope, params, state, {})
    assert all(
        torch.equal(a, b)
        for a, b in zip(kept, (v for t in (params, slope, *state.values()) for v in t.values()), strict=True)
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_update_is_differentiable_in_the_gradient_the_parameters_and_the_moments(
    name: str, weight_decay: float
) -> None:
    optimiser = inner_optimiser(name, RATE, weight_decay)
    params = start()
    params, state = optimiser.update(gradient(params), params, optimiser.init(params), {})
    slope = gradient(params, 1)
    trees = {"params": params, "gradient": slope, **{k: v for k, v in state.items() if k != "step"}}
    flat: Tree = {f"{k}/{name}": leaf for k, v in trees.items() for name, leaf in v.items()}

    def moved(at: Tree) -> torch.Tensor:
        parts = {k: {leaf: at[f"{k}/{leaf}"] for leaf in params} for k in trees}
        slots = {**state, **{k: parts[k] for k in state if k in parts}}
        after, memory = optimiser.update(parts["gradient"], parts["params"], slots, {})
        return torch.stack([leaf.sin().sum() for v in (after, *memory.values()) for leaf in v.values()]).sum()

    leaves = tree.leaves_for_grad(flat)
    found = dict(zip(leaves, torch.autograd.grad(moved(leaves), list(leaves.values())), strict=True))
    for drawn in directions(flat, 3):
        direction = tree.tree_map(
            lambda leaf, by: leaf * by, flat, drawn
        )  # in proportion: second moments stay positive
        expected = difference(lambda at: float(moved(at)), flat, direction, width=1e-4)
        assert float(tree.dot(found, direction)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_first_and_second_derivatives_are_finite_at_a_zero_gradient(name: str) -> None:
    optimiser = inner_optimiser(name, RATE)
    params = {"w": torch.ones(2, dtype=torch.float64)}
    slope = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    state = optimiser.init(params)
    for _ in range(2):
        params, state = optimiser.update({"w": slope}, params, state, {})
    (first,) = torch.autograd.grad(params["w"].square().sum(), slope, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), slope)
    assert bool(first.isfinite().all())
    assert bool(second.isfinite().all())
    assert bool((first != 0).all())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_learning_rate_may_be_a_scalar_or_a_tree_of_the_meta_parameters(name: str) -> None:
    params = start()
    meta = {"rate": torch.tensor(RATE, dtype=torch.float64)}
    fixed, scalar = inner_optimiser(name, RATE), inner_optimiser(name, lambda meta, step: meta["rate"])
    by_leaf = inner_optimiser(name, lambda meta, step: {"w": meta["rate"], "b": meta["rate"]})
    expected, _ = fixed.update(gradient(params), params, fixed.init(params), {})
    for learned in (scalar, by_leaf):
        found, _ = learned.update(gradient(params), params, learned.init(params), meta)
        assert relative_error(found, expected) == 0


def moments(optimiser: Any) -> dict[str, list[str]]:
    return {slot: list(leaves) for slot, leaves in optimiser.init(start()).items()}


def test_the_state_of_each_optimiser_counts_steps_where_something_reads_them() -> None:
    assert moments(SGD(0.1)) == moments(SGD(PerParameter(torch.exp))) == moments(SGD(scheduled(0.1, Constant()))) == {}
    assert moments(Momentum(0.1)) == {"momentum": ["w", "b"]}
    assert moments(Adam(0.1)) == {"first": ["w", "b"], "second": ["w", "b"], "step": ["count"]}
    assert moments(RMSprop(0.1)) == {"second": ["w", "b"]}
    for rate in (
        scheduled(0.1, Cosine(9)),
        scheduled(PerParameter(torch.exp), Cosine(9)),
        lambda meta, step: 0.1 / step,
    ):
        assert moments(SGD(rate)) == {"step": ["count"]}
        assert moments(Momentum(rate)) == {"momentum": ["w", "b"], "step": ["count"]}
        assert moments(Adam(rate)) == moments(Adam(0.1))
        assert moments(RMSprop(rate)) == {"second": ["w", "b"], "step": ["count"]}


SCHEDULE = WarmUp(5, Cosine(12, 0.2))


def factor(step: float) -> float:
    """The same, for torch's scheduler."""
    return (step + 1) / 5 if step < 5 else 0.6 + 0.4 * math.cos(math.pi * min((step - 5) / 12, 1))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_scheduled_steps_equal_torch_optim_with_its_scheduler(name: str, weight_decay: float) -> None:
    rates: dict[str, Rate] = {
        "a number": scheduled(RATE, SCHEDULE),
        "per parameter": scheduled(PerParameter(torch.exp), SCHEDULE),
        "a function of l": scheduled(lambda meta, step: meta["w"].exp(), SCHEDULE),
        "a function of l, by name": scheduled(lambda meta, step: tree.tree_map(torch.exp, meta), SCHEDULE),
        "a function of the step": lambda meta, step: meta["w"].exp() * SCHEDULE(step),
    }
    meta = dict.fromkeys("wb", torch.tensor(RATE, dtype=torch.float64).log())
    for rate in rates.values():
        ours, theirs = start(), tree.leaves_for_grad(start())
        optimiser = inner_optimiser(name, rate, weight_decay)
        peer = PEERS[name](list(theirs.values()), lr=RATE, weight_decay=weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(peer, factor)
        state = optimiser.init(ours)
        for step in range(20):
            assert float(state["step"]["count"]) == step
            ours, state = optimiser.update(gradient(ours, step), ours, state, meta)
            peer.zero_grad()
            loss(theirs, step).backward()
            peer.step()
            scheduler.step()
            assert relative_error(ours, tree.detach(theirs)) <= 1e-13


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_step_is_a_constant_to_every_derivative(name: str) -> None:
    optimiser = inner_optimiser(name, lambda meta, step: meta["rate"] + 0.01 * step.sqrt())
    meta = {"rate": torch.tensor(RATE, dtype=torch.float64)}
    params = start()
    state, slope = optimiser.init(params), gradient(params)

    def moved(at: Tree) -> torch.Tensor:
        return torch.stack([leaf.sum() for leaf in optimiser.update(slope, params, state, at)[0].values()]).sum()

    expected = difference(lambda at: float(moved(at)), meta, {"rate": torch.ones((), dtype=torch.float64)}, 1e-3)
    assert float(torch.func.grad(moved)(meta)["rate"]) == pytest.approx(expected, rel=1e-10)

    def moved_from(at: Tree, count: torch.Tensor) -> torch.Tensor:
        after = optimiser.update(slope, params, {**state, "step": {"count": count}}, at)[0]
        return torch.stack([leaf.sum() for leaf in after.values()]).sum()

    # The root has an infinite slope at step 0, where the tangent of the count is zero.
    units = (tree.tree_map(torch.ones_like, meta), torch.zeros((), dtype=torch.float64))
    _, forward = torch.func.jvp(moved_from, (meta, state["step"]["count"]), units)
    assert float(forward) == pytest.approx(expected, rel=1e-10)
