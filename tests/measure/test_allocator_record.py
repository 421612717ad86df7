"""The record of the CPU allocator against two others: torch's public profiler, and storages seen by the dispatcher."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from memory_programs import PROGRAMS
from storage_meter import StorageMeter
from torch.profiler import ProfilerActivity, profile

from metabench.measure.memory.allocator_events import AllocatorEvents
from metabench.measure.memory.meter import measure_memory

# Programs with no constants (the scalar of `2 * x` is a tensor inside torch) and no kernel that takes memory of its
# own.
EXACT = (
    "perceptron",
    "gradient_per_example",
    "hessian_product",
    "recurrent_cell",
    "unrolled_hypergradient",
)


def profiled_peak(call: Callable[[], Any]) -> int:
    """Return the peak of the running sum of torch.profiler's memory events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    live = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def watched(call: Callable[[], Any]) -> tuple[AllocatorEvents, StorageMeter]:
    """Return the records of both meters of the same run, the second under a dispatch mode."""
    with StorageMeter():
        call()
    with AllocatorEvents() as events, StorageMeter() as storages:
        call()
    return events, storages


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_record_is_that_of_the_full_profiler(name: str) -> None:
    call, arguments = PROGRAMS[name]()
    call()
    assert measure_memory(call, arguments, "cpu")[1].dynamic_bytes == profiled_peak(call)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_record_agrees_with_the_storages_within_one_percent(name: str) -> None:
    call, arguments = PROGRAMS[name]()
    # What torch sets up once for operations under a dispatch mode may hold on to a tensor.
    with StorageMeter():
        call()
    dynamic = measure_memory(call, arguments, "cpu")[1].dynamic_bytes
    with StorageMeter() as storages:
        call()
    assert storages.peak_bytes == pytest.approx(dynamic, rel=0 if name in EXACT else 0.01)


def test_a_kernels_own_memory_is_in_the_record_and_not_in_the_storages() -> None:
    images, taps = torch.ones(1, 3, 16, 16, dtype=torch.float64), torch.ones(5, 3, 3, 3, dtype=torch.float64)
    events, storages = watched(lambda: torch.conv2d(images, taps))
    assert storages.peak_bytes == 5 * 14 * 14 * 8
    assert events.peak_bytes == storages.peak_bytes + 3 * 3 * 3 * 14 * 14 * 8


def test_both_records_know_what_is_still_alive_at_the_end() -> None:
    kept = []
    events, storages = watched(lambda: kept.append(torch.ones(10) + torch.ones(10)))
    assert (events.peak_bytes, events._live()[-1]) == (120, 40)
    assert (storages.peak_bytes, storages.live_bytes) == (120, 40)


def test_storages_are_followed_through_resizing_and_new_tensors() -> None:
    def call() -> None:
        values = torch.tensor([1.0, 2.0, 3.0])
        values.resize_(30)
        torch.ones(2, device="meta").add_(values[0].to("meta"))

    events, storages = watched(call)
    assert events.peak_bytes == storages.peak_bytes == 12 + 120
    assert events._live()[-1] == storages.live_bytes == 0


def test_the_record_cannot_be_read_before_its_end() -> None:
    with AllocatorEvents() as events, pytest.raises(RuntimeError, match="after its block has ended"):
        _ = events.peak_bytes


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("differentiated", [False, True], ids=["forward", "backward"])
def test_random_programs_have_the_same_bytes_in_both_records(seed: int, differentiated: bool) -> None:
    call = random_program(seed, differentiated)
    events, storages = watched(call)
    assert events.peak_bytes > 0
    assert events.peak_bytes == storages.peak_bytes
    assert events._live()[-1] == storages.live_bytes == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_record_of_a_forward_program_is_that_of_its_storages_run_apart(seed: int) -> None:
    forward = random_program(seed, differentiated=False)
    with StorageMeter() as storages:
        forward()
    assert measure_memory(forward, (), "cpu")[1].dynamic_bytes == storages.peak_bytes


def random_program(seed: int, differentiated: bool) -> Callable[[], None]:
    """Return a program of 5 to 40 random operations on square matrices, some released on the way."""
    side = random.Random(seed).choice([3, 17, 64])
    weights = torch.full((side, side), 0.01, requires_grad=differentiated)

    def call() -> None:
        draw = random.Random(seed)
        alive = [weights @ weights]
        for _ in range(draw.randint(5, 40)):
            one, other = draw.choice(alive), draw.choice(alive)
            alive.append(draw.choice(OPERATIONS)(one, other))
            if len(alive) > 2 and draw.random() < 0.4:
                alive.pop(draw.randrange(len(alive)))
        if differentiated:
            del one, other
            ahead = torch.ones_like(weights)
            outputs = [matrix for matrix in alive if matrix.requires_grad]
            torch.autograd.grad(outputs, weights, [ahead for _ in outputs], allow_unused=True)

    return call


# Each takes two matrices of the same shape and returns one; none uses a constant, and in-place ones work on a copy of
# their own.
OPERATIONS: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
    torch.matmul,
    torch.add,
    torch.mul,
    torch.maximum,
    lambda one, other: one.t(),
    lambda one, other: one.relu(),
    lambda one, other: one.tanh(),
    lambda one, other: one.clone().mul_(other),
    lambda one, other: other.clone().sigmoid_(),
    lambda one, other: torch.cat([one, other])[: len(one)],
    lambda one, other: one.sum(0) + other,
    lambda one, other: torch.stack([one, other]).sum(0),
    lambda one, other: torch.where(one > other, one, other),
    lambda one, other: one.detach(),
    lambda one, other: torch.einsum("ij,kj->ik", one, other),
)
