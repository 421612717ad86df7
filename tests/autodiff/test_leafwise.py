"""Of a large model an update is taken, and pulled back, for a part of the parameters at a time: the numbers are the same."""

from __future__ import annotations

import itertools

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, difference, objective, relative_error
from small_problems import LearnedSchedule, LearningRates, ScheduledRates, SummedOuter, Tanh

from metabench.autodiff import inner
from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import OptimiserState, Tree, tree

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
    monkeypatch.setattr(inner, "WHOLE_BYTES", 0)
    assert len(inner.parts_of(problem.optimiser, at[0].params)) > 1
    for options in ({}, {"mixed_mode": False}, {"save_inner_grads": False}, {"trajectory": "recompute"}):
        found = call("mixflow", problem, *at, **options)
        assert relative_error(found.meta, expected.meta) <= 1e-12
        assert relative_error(found.state.params, expected.state.params) <= 1e-14
        for slot, leaves in expected.state.optimiser.items():
            assert relative_error(found.state.optimiser[slot], leaves) <= 1e-14


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
    parts = inner.parts_of(inner_optimiser("adam", 0.1), params)
    assert [name for part in parts for name in part] == list(params)
    assert 1 < len(parts) <= 6
    assert inner.parts_of(object(), params) == [list(params)], (
        "an optimiser that does not say it is leafwise is asked as a whole"
    )
    assert tree.count(params) * 4 > inner.WHOLE_BYTES
