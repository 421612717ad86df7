"""Of a large model an update is taken, and pulled back, for a part of the parameters at a time: the numbers are the same."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, difference, objective, relative_error
from small_problems import LearnedSchedule, LearningRates, ScheduledRates, SummedOuter, Tanh

from metabench.autodiff import parts
from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import InnerState, OptimiserState, Tree, Window, tree

CASES = [
    *zip((Tanh, LearningRates, SummedOuter) * 2, OPTIMISERS, strict=True),
    *itertools.product((LearnedSchedule, ScheduledRates), ("sgd", "adam")),
]


@pytest.mark.parametrize(("kind", "optimiser"), CASES)
def test_an_update_in_parts_is_the_whole_update(
    kind: type[Tanh], optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = kind(optimiser, inner_steps=4)
    at = checkpoint(problem)
    expected = call("unrolled", problem, *at)
    monkeypatch.setattr(parts, "WHOLE_BYTES", 0)
    assert len(parts.parts_of(problem.optimiser, at[0].params)) > 1
    for options in ({}, {"mixed_mode": False}, {"save_inner_grads": False}, {"trajectory": "recompute"}):
        found = call("mixflow", problem, *at, **options)
        assert relative_error(found.meta, expected.meta) <= 1e-12
        assert relative_error(found.state.params, expected.state.params) <= 1e-14
        for slot, leaves in expected.state.optimiser.items():
            assert relative_error(found.state.optimiser[slot], leaves) <= 1e-14


class Remembering:
    """h <- tanh(a h + g), w <- w + b . h: every coordinate has two numbers of memory, and weights in common with all; steps are counted."""

    leafwise = coordinatewise = True
    numbers_per_coordinate = 8

    def init(self, params: Tree) -> OptimiserState:
        hidden = {name: leaf.new_zeros((*leaf.shape, 2)) for name, leaf in params.items()}
        return {"hidden": hidden, "step": {"count": torch.zeros((), dtype=torch.float64)}}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        keep, out = meta["in"] / 4, meta["out"] / 40 + torch.arange(1.0, 3, dtype=torch.float64) / 50
        count = state["step"]["count"]
        hidden = {
            name: (keep * state["hidden"][name] + gradient[name][..., None] + 0.1 * count).tanh() for name in gradient
        }
        moved = {name: leaf - hidden[name] @ out for name, leaf in params.items()}
        return moved, {"hidden": hidden, "step": {"count": count + 1}}


@pytest.mark.parametrize("name", ["mixflow", "first_order", "none", "es"])
def test_a_coordinatewise_update_is_cut_within_a_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = LearningRates("sgd", inner_steps=4)
    problem.optimiser = Remembering()
    state, meta, window = checkpoint(problem)
    window = Window(window.inner, (None, window.outer[-1], window.outer[-1], None))
    state = InnerState(state.params, problem.optimiser.init(state.params))
    options = {"mixflow": [{}, {"trajectory": "recompute"}], "first_order": [{}, {"recompute": True}]}.get(name, [{}])
    before = {slot: tree.tree_map(torch.clone, leaves) for slot, leaves in state.optimiser.items()}
    expected = [call(name, problem, state, meta, window, **chosen) for chosen in options]
    monkeypatch.setattr(parts, "WHOLE_BYTES", 0)
    assert sum(part.rows is not None for part in parts.parts_of(problem.optimiser, state.params)) > 3
    for whole, chosen in zip(expected, options, strict=True):
        cut = call(name, problem, state, meta, window, **chosen)
        assert float(tree.norm(tree.subtract(cut.meta, whole.meta))) <= 1e-13 * float(tree.norm(whole.meta))
        assert relative_error(cut.state.params, whole.state.params) <= 1e-14
        for slot, leaves in whole.state.optimiser.items():
            assert relative_error(cut.state.optimiser[slot], leaves) <= 1e-14
            assert all(torch.equal(leaf, state.optimiser[slot][name]) for name, leaf in before[slot].items())


class Paced:
    """b <- 3/2 b + sum g / 100, w <- w - exp(l) g / b: the slot belongs to all parameters, and has another name than any."""

    def init(self, params: Tree) -> OptimiserState:
        return {"pace": {"b": torch.ones((), dtype=torch.float64)}}

    def update(self, gradient: Tree, params: Tree, state: OptimiserState, meta: Tree) -> tuple[Tree, OptimiserState]:
        pace = 1.5 * state["pace"]["b"] + torch.stack([leaf.sum() for leaf in gradient.values()]).sum() / 100
        moved = {name: leaf - meta[name].exp() / pace * gradient[name] for name, leaf in params.items()}
        return moved, {"pace": {"b": pace}}


@pytest.mark.parametrize("steps", [1, 4])
def test_a_slot_need_not_have_the_names_of_the_parameters(steps: int) -> None:
    problem = LearningRates("sgd", inner_steps=steps)
    problem.optimiser = Paced()
    at = checkpoint(problem)
    expected = call("unrolled", problem, *at)
    state, meta, window = at
    slope = difference(objective(problem, state, window), meta, expected.meta)
    assert slope == pytest.approx(float(tree.dot(expected.meta, expected.meta)), rel=1e-7)
    for options in ({}, {"mixed_mode": False}, {"save_inner_grads": False}, {"trajectory": "recompute"}):
        assert relative_error(call("mixflow", problem, *at, **options).meta, expected.meta) <= 1e-12
    for name in ("unrolled_remat", "forward", *(("t1t2", "darts") if steps == 1 else ())):
        assert relative_error(call(name, problem, *at).meta, expected.meta) <= 1e-8


def test_parts_are_at_least_as_large_as_the_largest_tensor_and_hold_every_name_once() -> None:
    params = {f"w{i}": torch.zeros(size) for i, size in enumerate((400_000, 10, 10, 300_000, 5, 200_000))}
    found = parts.parts_of(inner_optimiser("adam", 0.1), params)
    assert [name for part in found for name in part.names] == list(params)
    assert 1 < len(found) <= 6
    assert parts.parts_of(object(), params) == [parts.Part(tuple(params))], (
        "an optimiser that does not say it is leafwise is asked as a whole"
    )
    assert 8 * tree.count(params) * 4 > parts.WHOLE_BYTES
