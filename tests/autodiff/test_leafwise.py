"""Of a large model an update is taken, and pulled back, for a part of the parameters at a time: the numbers are the same."""

from __future__ import annotations

import pytest
import torch
from bilevel import OPTIMISERS, call, checkpoint, relative_error
from small_problems import LearningRates, SummedOuter, Tanh

from metabench.autodiff import inner
from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import tree


@pytest.mark.parametrize(("kind", "optimiser"), zip((Tanh, LearningRates, SummedOuter) * 2, OPTIMISERS, strict=True))
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


def test_parts_are_at_least_as_large_as_the_largest_tensor_and_hold_every_name_once() -> None:
    params = {f"w{i}": torch.zeros(size) for i, size in enumerate((400_000, 10, 10, 300_000, 5, 200_000))}
    parts = inner.parts_of(inner_optimiser("adam", 0.1), params)
    assert [name for part in parts for name in part] == list(params)
    assert 1 < len(parts) <= 6
    assert inner.parts_of(object(), params) == [list(params)], (
        "an optimiser that does not say it is leafwise is asked as a whole"
    )
    assert tree.count(params) * 4 > inner.WHOLE_BYTES
