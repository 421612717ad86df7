"""The inner run is plain training: the same numbers as a training loop written with torch.optim."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import OPTIMISERS, checkpoint, make_problem, relative_error
from small_problems import LearnedStart, Tanh

from metabench.autodiff.gradients import gradients, inner_gradient, inner_meta_gradient, outer_gradient, outer_value
from metabench.autodiff.inner import (
    begin,
    check_finite,
    detached,
    leaves_of,
    recorded_step,
    run,
    step,
    updated,
    with_leaves,
)
from metabench.core import Diverged, InnerState, tree

PEERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda leaves, **k: torch.optim.SGD(leaves, momentum=0.9, **k),
    "nesterov": lambda leaves, **k: torch.optim.SGD(leaves, momentum=0.9, nesterov=True, **k),
    "adam": torch.optim.Adam,
    "adamw": lambda leaves, **k: torch.optim.AdamW(leaves, weight_decay=0.0, **k),
    "rmsprop": torch.optim.RMSprop,
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_an_inner_run_is_a_torch_training_loop(optimiser: str) -> None:
    problem = Tanh(optimiser, inner_steps=20)
    state, meta, window = checkpoint(problem, windows_before=0)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in state.params.items()}
    peer = PEERS[optimiser](list(leaves.values()), lr=problem.learning_rate(optimiser))
    for batch in window.inner:
        peer.zero_grad()
        problem.inner_loss(leaves, meta, batch).backward()
        peer.step()
    assert relative_error(run(problem, state, meta, window.inner).params, tree.detach(leaves)) <= 1e-11


def test_a_recorded_step_has_the_values_of_a_plain_one_and_a_graph_to_state_and_meta() -> None:
    problem = Tanh("adam")
    state, meta, window = checkpoint(problem)
    plain = step(problem, state, meta, window.inner[0])
    asking = tree.leaves_for_grad(meta)
    recorded = recorded_step(problem, state, asking, window.inner[0])
    assert relative_error(tree.detach(recorded.params), plain.params) <= 1e-14
    assert all(leaf.requires_grad for leaf in recorded.params.values())
    assert not any(leaf.requires_grad for leaves in leaves_of(plain) for leaf in leaves.values())
    (found,) = gradients(
        list(recorded.params.values()), [asking], [torch.ones_like(v) for v in recorded.params.values()]
    )
    assert tree.flatten(found).any()


def test_a_run_begins_where_the_problems_start_says() -> None:
    carried, learned = Tanh(), LearnedStart()
    state, meta, _ = checkpoint(carried)
    assert begin(carried, state, meta).params is state.params
    state, meta, _ = checkpoint(learned)
    assert all(begin(learned, state, meta).params[name] is leaf for name, leaf in meta.items())


def test_a_state_is_taken_apart_and_put_together_again() -> None:
    state, _, _ = checkpoint(Tanh("adam"))
    again = with_leaves(state, leaves_of(state))
    assert again.params is state.params
    assert list(again.optimiser) == ["first", "second", "step"]
    assert all(again.optimiser[slot] is leaves for slot, leaves in state.optimiser.items())
    recording = InnerState(tree.leaves_for_grad(state.params), state.optimiser)
    assert not any(leaf.requires_grad for leaf in detached(recording).params.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_is_not_finite_is_named(bad: float) -> None:
    state, _, _ = checkpoint(Tanh())
    check_finite(state)
    broken = InnerState({**state.params, "shift": state.params["shift"] * bad}, state.optimiser)
    with pytest.raises(Diverged, match="parameter 'shift' is not finite"):
        check_finite(broken)


def test_gradients_of_what_is_not_reached_are_zeros() -> None:
    x, y = (tree.leaves_for_grad({name: torch.ones(2, dtype=torch.float64)}) for name in "xy")
    of_x, of_y = gradients((x["x"] ** 2).sum(), [x, y])
    assert of_x["x"].tolist() == [2, 2]
    assert of_y["y"].tolist() == [0, 0]
    (nothing,) = gradients(torch.zeros(()), [x])
    assert nothing["x"].tolist() == [0, 0]
    weighted, unreached = gradients([x["x"] * 3, torch.ones(2)], [x, y], [torch.tensor([1.0, 2.0]), torch.ones(2)])
    assert weighted["x"].tolist() == [3, 6]
    assert unreached["y"].tolist() == [0, 0]


def test_first_order_gradients_of_both_losses() -> None:
    problem = make_problem("toy_1d")
    state, meta, window = checkpoint(problem)
    x, penalty = float(state.params["x"]), float(meta["l"])
    slope = inner_gradient(problem, state.params, meta, window.inner[0])
    assert float(slope["x"]) == pytest.approx(2 * (x - 1) + 2 * penalty * x, rel=1e-14)
    assert float(inner_meta_gradient(problem, state.params, meta, window.inner[0])["l"]) == pytest.approx(
        x * x, rel=1e-14
    )
    due = outer_gradient(problem, state.params, meta, {})
    assert (due.loss, float(due.params["x"]), float(due.meta["l"])) == (
        pytest.approx((x - 0.5) ** 2, rel=1e-14),
        pytest.approx(2 * (x - 0.5), rel=1e-14),
        0.0,
    )
    assert outer_value(problem, state.params, meta, {}) == due.loss


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_step_is_the_update_by_the_inner_gradient(optimiser: str) -> None:
    problem = Tanh(optimiser)
    state, meta, window = checkpoint(problem)
    gradient = inner_gradient(problem, state.params, meta, window.inner[0])
    after, expected = updated(problem, gradient, state, meta), step(problem, state, meta, window.inner[0])
    for ours, theirs in zip(leaves_of(after), leaves_of(expected), strict=True):
        assert all(torch.equal(leaf, theirs[name]) for name, leaf in ours.items())
