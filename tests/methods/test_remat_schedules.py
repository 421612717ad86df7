"""Rematerialised reverse mode: the schedule decides time and memory, never the hypergradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
from bilevel import OPTIMISERS, call, checkpoint, relative_error
from small_problems import Counting, LearnedStart, SummedOuter, Tanh

from metabench.core import MetabenchError, tree
from metabench.measure.memory.meter import measure_memory

SCHEDULES: tuple[dict[str, Any], ...] = (
    {"schedule": "every"},
    {"schedule": "sqrt"},
    *({"schedule": "binomial", "checkpoints": checkpoints} for checkpoints in (0, 1, 2, 4, 9)),
)


# Each number of steps with every kind, and each optimiser with every schedule.
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 14])
@pytest.mark.parametrize(
    ("kind", "optimisers"),
    [(Tanh, OPTIMISERS[:2]), (SummedOuter, OPTIMISERS[2:4]), (LearnedStart, OPTIMISERS[4:])],
    ids=["Tanh", "SummedOuter", "LearnedStart"],
)
def test_every_schedule_is_reverse_mode_for_any_number_of_steps(
    kind: type[Tanh], optimisers: tuple[str, ...], steps: int
) -> None:
    for optimiser in optimisers:
        problem = kind(optimiser, inner_steps=steps)
        at = checkpoint(problem)
        expected = call("unrolled", problem, *at)
        for options in SCHEDULES:
            found = call("unrolled_remat", problem, *at, **options)
            assert relative_error(found.meta, expected.meta) <= 1e-11
            assert relative_error(found.state.params, expected.state.params) <= 1e-12
            assert found.outer_loss == pytest.approx(expected.outer_loss, rel=1e-12)


@pytest.mark.parametrize("checkpoints", [0, 1, 3, 4, 8])
@pytest.mark.parametrize("steps", [1, 2, 5, 11, 20])
def test_the_binomial_schedule_evaluates_the_inner_loss_as_often_as_its_closed_form_says(
    steps: int, checkpoints: int
) -> None:
    held = checkpoints + 1
    repeats = next(r for r in range(steps + 1) if math.comb(held + r, held) >= steps)
    reruns = repeats * steps - math.comb(held + repeats, held + 1)
    problem = Counting(Tanh(inner_steps=steps))
    at = checkpoint(Tanh(inner_steps=steps))
    call("unrolled_remat", problem, *at, schedule="binomial", checkpoints=checkpoints)  # type: ignore[arg-type]
    # The last step is run for the outer loss, and each is recorded once.
    assert problem.inner_losses == reruns + 1 + steps
    assert problem.inner_losses <= (repeats + 1) * steps + 1


def peak(steps: int, **options: Any) -> int:
    problem = Tanh("adam", inner_steps=steps)
    at = checkpoint(problem)
    call("unrolled_remat", problem, *at, **options)
    return measure_memory(lambda: call("unrolled_remat", problem, *at, **options), at, "cpu")[1].dynamic_bytes


def test_the_memory_of_the_binomial_schedule_does_not_grow_with_the_number_of_steps() -> None:
    flat = {steps: peak(steps, schedule="binomial", checkpoints=3) for steps in (8, 16, 64)}
    assert flat[8] == flat[16] == flat[64]
    assert peak(64, schedule="every") > 2 * peak(64, schedule="sqrt") > 2 * flat[64]


def test_each_checkpoint_takes_the_bytes_of_one_inner_state() -> None:
    state = checkpoint(Tanh("adam"))[0]
    size = 8 * (tree.count(state.params) + sum(tree.count(slot) for slot in state.optimiser.values()))
    few, more = (peak(64, schedule="binomial", checkpoints=checkpoints) for checkpoints in (3, 7))
    assert more - few == 4 * size


def test_a_negative_number_of_checkpoints_and_an_unknown_schedule_are_refused() -> None:
    at = checkpoint(Tanh())
    with pytest.raises(MetabenchError, match="option 'checkpoints' of method 'unrolled_remat': must be at least 0"):
        call("unrolled_remat", Tanh(), *at, schedule="binomial", checkpoints=-1)
    with pytest.raises(MetabenchError, match="did you mean 'binomial'"):
        call("unrolled_remat", Tanh(), *at, schedule="binomal")
