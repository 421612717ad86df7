"""What `mixflow` needs of memory and arithmetic, in ratios, on a small language model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, make_problem
from counted_flops import flop_counter
from small_problems import Tanh

from metabench.autodiff.traced.memory_floor import mixed_mode_floor
from metabench.core import Problem
from metabench.measure.memory.meter import measure_memory

SMALL: dict[str, Any] = {"width": 32, "heads": 2, "sequence": 32, "batch": 4, "vocabulary": 0, "optimiser": "sgd"}


@functools.cache
def language_model(steps: int, blocks: int) -> tuple[Problem, Any]:
    problem = make_problem("lm_learning_rates", inner_steps=steps, blocks=blocks, dtype=torch.float32, **SMALL)
    return problem, (problem.initial_state()[0], problem.initial_state()[1], next(problem.windows())[0])


@functools.cache
def dynamic_bytes(name: str, steps: int, blocks: int, **options: Any) -> int:
    problem, at = language_model(steps, blocks)
    call(name, problem, *at, **options)
    return measure_memory(lambda: call(name, problem, *at, **options), (at, problem.setting), "cpu")[1].dynamic_bytes


def parameter_bytes(blocks: int) -> int:
    _, (state, _, _) = language_model(2, blocks)
    return sum(leaf.numel() * leaf.element_size() for leaf in state.params.values())


def test_each_step_more_costs_a_state_and_an_inner_gradient() -> None:
    growth = (dynamic_bytes("mixflow", 8, 2) - dynamic_bytes("mixflow", 4, 2)) / 4
    scalars = 64 * 100
    assert growth <= 2.1 * parameter_bytes(2) + scalars
    spared = (
        dynamic_bytes("mixflow", 8, 2, save_inner_grads=False) - dynamic_bytes("mixflow", 4, 2, save_inner_grads=False)
    ) / 4
    assert spared <= 1.05 * parameter_bytes(2) + scalars


def test_each_block_more_costs_its_boundaries_and_parameters() -> None:
    steps = 2
    growth = (dynamic_bytes("mixflow", steps, 6) - dynamic_bytes("mixflow", steps, 3)) / 3
    of_block = (parameter_bytes(6) - parameter_bytes(3)) / 3
    stream = SMALL["batch"] * SMALL["sequence"] * SMALL["width"] * 4
    # States, inner gradients, the cotangent and what comes of it; the stream and its tangent.
    assert growth <= 1.05 * ((2 * steps + 1) * of_block + 2 * stream)


def test_mixed_mode_needs_less_than_recomputation_and_that_less_than_unrolling() -> None:
    mixed, remat, unrolled = (dynamic_bytes(name, 4, 3) for name in ("mixflow", "unrolled_remat", "unrolled"))
    assert mixed < remat < unrolled
    assert 4 * mixed < unrolled


def test_every_switch_saves_memory_or_arithmetic() -> None:
    least = dynamic_bytes("mixflow", 4, 3)
    assert (
        least
        < dynamic_bytes("mixflow", 4, 3, block_remat=False)
        < dynamic_bytes("mixflow", 4, 3, mixed_mode=False, block_remat=False)
    )
    assert dynamic_bytes("mixflow", 4, 3, save_inner_grads=False) <= least


def test_a_trajectory_run_again_is_smaller_than_one_kept() -> None:
    kept, again = (dynamic_bytes("mixflow", 16, 1, trajectory=one) for one in ("device", "recompute"))
    assert again < 0.6 * kept


@pytest.mark.parametrize(("steps", "blocks"), [(2, 3), (4, 3), (8, 2)])
def test_memory_is_near_the_floor_of_mixed_mode(steps: int, blocks: int) -> None:
    problem, at = language_model(steps, blocks)
    floor = mixed_mode_floor(problem, *at)
    assert floor is not None
    assert dynamic_bytes("mixflow", steps, blocks) <= 1.25 * floor


def test_a_problem_without_segments_has_no_floor() -> None:
    problem = Tanh()
    assert mixed_mode_floor(problem, *checkpoint(problem)) is None


def flops(name: str, steps: int, blocks: int, **options: Any) -> int:
    problem, at = language_model(steps, blocks)
    call(name, problem, *at, **options)
    with flop_counter() as counter:
        call(name, problem, *at, **options)
    return int(counter.get_total_flops())


def test_arithmetic_is_a_third_more_than_unrolling_and_a_little_more_with_blocks_taken_again() -> None:
    unrolled = flops("unrolled", 4, 3)
    assert flops("mixflow", 4, 3, block_remat=False) <= 4 / 3 * 1.03 * unrolled
    assert flops("mixflow", 4, 3) <= 1.65 * unrolled
    assert flops("mixflow", 4, 3) < flops("mixflow", 4, 3, save_inner_grads=False)
