"""The sweep back over the steps keeps what its spacing says, and no more."""

from __future__ import annotations

import math
from typing import Any

import pytest
from bilevel import checkpoint, relative_error
from small_problems import Tanh

from metabench.autodiff import sweep
from metabench.autodiff.sweep import recomputed_step, square_root_spacing, sweep_back, through_graph


@pytest.mark.parametrize("steps", [*range(1, 30), 97, 100, 101, 1000])
def test_the_square_root_spacing_keeps_about_two_square_roots(steps: int) -> None:
    spacing = square_root_spacing(steps)
    assert spacing == math.ceil(math.sqrt(steps))
    kept = math.ceil(steps / spacing) + spacing - 1
    assert kept <= 2 * math.ceil(math.sqrt(steps))


@pytest.mark.parametrize("spacing", [1, 2, 3, 7, 12, 50])
def test_any_spacing_gives_the_same(spacing: int) -> None:
    problem = Tanh("adam", inner_steps=12)
    at = checkpoint(problem)
    assert (
        relative_error(sweep_back(problem, *at, recomputed_step, spacing).meta, through_graph(problem, *at).meta)
        <= 1e-12
    )


@pytest.mark.parametrize("steps", [1, 5, 16, 23])
def test_the_states_alive_at_once_are_those_that_the_spacing_promises(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Tanh("momentum", inner_steps=steps)
    at = checkpoint(problem)
    alive: list[int] = []
    rerun = sweep._rerun

    def watched(problem: Any, kept: dict[int, Any], *rest: Any) -> None:
        rerun(problem, kept, *rest)
        alive.append(len(kept))

    monkeypatch.setattr(sweep, "_rerun", watched)
    sweep_back(problem, *at, recomputed_step, square_root_spacing(steps))
    assert max(alive, default=1) <= 2 * math.ceil(math.sqrt(steps))
    alive.clear()
    sweep_back(problem, *at, recomputed_step, 1)
    assert alive == []
