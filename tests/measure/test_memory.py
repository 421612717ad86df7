"""The meter is exact: against sums done by hand, and the same bytes at every run."""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_programs import PROGRAMS, measured_peaks

from metabench.core.errors import MetabenchError, OutOfMemory
from metabench.measure.memory import bound
from metabench.measure.memory.meter import Memory, measure_memory

SIDE = 100
MATRIX = SIDE * SIDE * 4
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts the data of a process")


def dynamic(call: Callable[[], Any], *arguments: Any) -> int:
    return measure_memory(call, arguments, "cpu")[1].dynamic_bytes


@pytest.fixture
def square() -> torch.Tensor:
    return torch.ones(SIDE, SIDE)


def test_peak_is_static_plus_dynamic_and_the_result_is_returned(square: torch.Tensor) -> None:
    result, memory = measure_memory(lambda: square @ square, {"weights": square, "rows": [square[:2]]}, "cpu")
    assert result[0, 0] == SIDE
    assert memory == Memory(2 * MATRIX, MATRIX, MATRIX, "cpu-allocator")


@pytest.mark.parametrize(("length", "matrices"), [(1, 1), (2, 2), (3, 2), (20, 2)])
def test_a_chain_of_products_holds_two_matrices(square: torch.Tensor, length: int, matrices: int) -> None:
    def call() -> torch.Tensor:
        product = square
        for _ in range(length):
            product = product @ square
        return product

    assert dynamic(call, square) == matrices * MATRIX


def test_a_graph_holds_every_activation_of_the_chain(square: torch.Tensor) -> None:
    square.requires_grad_()

    def call() -> torch.Tensor:
        product = square
        for _ in range(20):
            product = product @ square
        return product

    assert dynamic(call, square) == 20 * MATRIX


def test_operations_in_place_take_nothing(square: torch.Tensor) -> None:
    assert dynamic(lambda: square.clone().add_(square).relu_().mul_(square), square) == MATRIX


def test_views_and_broadcasts_take_nothing_until_they_are_written_out(square: torch.Tensor) -> None:
    row = torch.ones(1, SIDE)
    assert dynamic(lambda: square.t().narrow(0, 0, 5).unsqueeze(0), square) == 0
    assert dynamic(lambda: row.expand(SIDE, SIDE).view(SIDE, SIDE).t(), row) == 0
    assert dynamic(lambda: row.expand(SIDE, SIDE).contiguous(), row) == MATRIX
    assert dynamic(lambda: row + row.t(), row) == MATRIX


def test_what_is_released_first_makes_room(square: torch.Tensor) -> None:
    def call(release: bool) -> torch.Tensor:
        first = square @ square
        second = torch.cat([first, first])
        if release:
            del first
        return torch.cat([second, second])

    assert dynamic(lambda: call(release=False), square) == (1 + 2 + 4) * MATRIX
    assert dynamic(lambda: call(release=True), square) == (2 + 4) * MATRIX


def test_resizing_in_place_holds_the_old_block_until_it_is_copied() -> None:
    def call() -> torch.Tensor:
        return torch.ones(1000).resize_(3000)

    assert dynamic(call) == 4 * (1000 + 3000)


def test_a_backward_pass_holds_the_saved_activation_and_two_gradients() -> None:
    batch, width, hidden, out = 40, 20, 300, 3
    inputs, first, second = torch.ones(batch, width), torch.ones(width, hidden), torch.ones(hidden, out)
    weights = [first.requires_grad_(), second.requires_grad_()]
    ahead = torch.ones(batch, out)

    def call() -> Any:
        outputs = torch.relu(inputs @ first) @ second
        return torch.autograd.grad(outputs, weights, ahead)

    # At the relu's backward: its saved output, the gradients behind and before it, the second weight's gradient, the
    # outputs.
    expected = 4 * (3 * batch * hidden + hidden * out + batch * out)
    assert dynamic(call, inputs, weights, ahead) == expected


def test_unrolling_with_create_graph_grows_by_the_same_bytes_a_step() -> None:
    weights, inputs = torch.full((30, 30), 0.01, requires_grad=True), torch.ones(50, 30)

    def call(steps: int, create_graph: bool) -> Any:
        trained = weights
        for _ in range(steps):
            loss = torch.tanh(inputs @ trained).square().sum()
            (slope,) = torch.autograd.grad(loss, trained, create_graph=create_graph)
            trained = trained - slope
        return torch.autograd.grad(torch.tanh(inputs @ trained).square().sum(), weights)

    peaks = [dynamic(lambda steps=steps: call(steps, True), weights, inputs) for steps in (2, 3, 4, 5)]
    steps = {later - earlier for earlier, later in itertools.pairwise(peaks)}
    assert len(steps) == 1
    assert steps.pop() >= 4 * (50 * 30 + 30 * 30)
    assert dynamic(lambda: call(4, False), weights, inputs) < peaks[0]


def test_memory_inside_a_kernel_counts() -> None:
    # Columns of the image: 3 channels x 3 x 3 taps x 14 x 14 places, which the convolution in float64 writes out for
    # each image.
    images, taps = torch.ones(1, 3, 16, 16, dtype=torch.float64), torch.ones(5, 3, 3, 3, dtype=torch.float64)
    output = 5 * 14 * 14 * 8
    columns = 3 * 3 * 3 * 14 * 14 * 8
    assert dynamic(lambda: torch.conv2d(images, taps), images, taps) == output + columns


def test_releasing_memory_from_before_the_call_neither_counts_nor_misleads(square: torch.Tensor) -> None:
    # The first measured call leaves memory behind, which is released and taken again, in other sizes, before the
    # second.
    kept = measure_memory(lambda: [torch.ones(SIDE, SIDE) for _ in range(50)], (), "cpu")[0]
    kept.clear()
    kept.extend(torch.ones(10 + index) for index in range(50))

    def call() -> torch.Tensor:
        kept.clear()
        return square @ square

    assert dynamic(call, square) == MATRIX


def test_cyclic_garbage_of_before_is_not_waited_for(square: torch.Tensor) -> None:
    cycle: list[Any] = [square.clone()]
    cycle.append(cycle)
    gone = weakref.ref(cycle[0])
    del cycle

    def call() -> bool:
        assert not gc.isenabled()
        return gone() is None

    assert measure_memory(call, (), "cpu")[0]
    assert gc.isenabled()


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_bytes_at_every_run(name: str) -> None:
    call, arguments = PROGRAMS[name]()
    found = {measure_memory(call, arguments, "cpu")[1] for _ in range(5)}
    assert len(found) == 1


def test_the_same_bytes_in_another_process() -> None:
    script = Path(__file__).with_name("memory_programs.py")
    # The script's folder takes the place of the working directory on the path.
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=variables)
    assert json.loads(printed.stdout) == measured_peaks()
    assert printed.stderr == ""


def test_the_limit_is_held_to_the_byte(square: torch.Tensor) -> None:
    peak = 3 * MATRIX

    def call() -> Any:
        return square @ square, square + square

    assert measure_memory(call, square, "cpu", limit_bytes=peak)[1].peak_bytes == peak
    with pytest.raises(OutOfMemory, match=r"takes 120,000 live bytes .* the limit is 119,999"):
        measure_memory(call, square, "cpu", limit_bytes=peak - 1)
    with pytest.raises(OutOfMemory, match=r"the arguments alone take 40,000 bytes, the limit is 39,999"):
        measure_memory(call, square, "cpu", limit_bytes=MATRIX - 1)


@LINUX
def test_a_call_far_past_its_limit_is_stopped_inside_and_leaves_nothing() -> None:
    block = 2**26
    made: list[weakref.ref[torch.Tensor]] = []

    def call() -> None:
        kept = []
        for _ in range(100):
            kept.append(torch.empty(block, dtype=torch.uint8))
            made.append(weakref.ref(kept[-1]))

    bounds = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(OutOfMemory, match=r"stopped at [\d,]+ live bytes, asking for 67108864 bytes more") as caught:
        measure_memory(call, (), "cpu", limit_bytes=4 * block)
    assert 4 < len(made) < 20
    assert f"{len(made) * block:,} live bytes" in str(caught.value)
    assert all(reference() is None for reference in made)
    assert resource.getrlimit(resource.RLIMIT_DATA) == bounds
    assert gc.isenabled()
    assert dynamic(lambda: torch.ones(10)) == 40


@LINUX
def test_one_long_operation_of_torch_is_stopped_inside_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "SLACK_BYTES", 2**26)
    # More than 32 MiB: what is smaller may come from memory that this process has freed before, which no bound sees.
    weights = torch.ones(3072, 3072, requires_grad=True)
    hidden = weights
    for _ in range(12):
        hidden = hidden.sin()
    backward_bytes = 12 * 2 * weights.nbytes

    def call() -> Any:
        return torch.autograd.grad(hidden.sum(), weights, create_graph=True)

    with pytest.raises(OutOfMemory, match="stopped at") as caught:
        measure_memory(call, weights, "cpu", limit_bytes=2**26)
    reached = int(re.search(r"stopped at ([\d,]+)", str(caught.value))[1].replace(",", ""))
    assert 2**26 < reached < backward_bytes / 2


def test_an_exception_inside_leaves_the_meter_as_it_was(square: torch.Tensor) -> None:
    def call() -> None:
        square @ square
        raise KeyError("weights")

    for limit in (None, 10 * MATRIX):
        with pytest.raises(KeyError, match="weights"):
            measure_memory(call, square, "cpu", limit)
        assert gc.isenabled()
        assert dynamic(lambda: square @ square, square) == MATRIX


def test_a_collector_that_was_off_stays_off(square: torch.Tensor) -> None:
    gc.disable()
    try:
        dynamic(lambda: square + square, square)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_failure_to_allocate_without_a_limit_is_the_callers() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        measure_memory(lambda: torch.empty(2**52), (), "cpu")


def test_measuring_inside_a_measurement_is_refused(square: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="while torch's profiler runs"):
        dynamic(lambda: dynamic(lambda: square + square, square), square)
    assert dynamic(lambda: square + square, square) == MATRIX


def test_other_devices_are_refused_by_name() -> None:
    with pytest.raises(MetabenchError, match="unknown device 'mps'"):
        measure_memory(lambda: None, (), "mps")
    with pytest.raises(MetabenchError, match="unknown device 'cud': did you mean 'cuda'"):
        measure_memory(lambda: None, (), "cud")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestCuda:
    """The same definition on CUDA, where the allocator counts in blocks of 512 bytes."""

    def test_a_chain_of_products_holds_two_matrices(self) -> None:
        square = torch.ones(128, 128, device="cuda")

        def call() -> torch.Tensor:
            product = square
            for _ in range(20):
                product = product * square
            return product

        assert measure_memory(call, square, "cuda")[1] == Memory(3 * 2**16, 2**16, 2 * 2**16, "cuda-allocator")

    def test_the_limit_is_held_to_the_byte(self) -> None:
        square = torch.ones(128, 128, device="cuda")
        assert measure_memory(lambda: square + square, square, "cuda", 2**17)[1].peak_bytes == 2**17
        with pytest.raises(OutOfMemory, match="the limit is 131,071"):
            measure_memory(lambda: square + square, square, "cuda", 2**17 - 1)

    def test_a_call_far_past_its_limit_is_stopped_inside(self) -> None:
        made = 0

        def call() -> None:
            nonlocal made
            kept = []
            for _ in range(100):
                kept.append(torch.empty(2**26, dtype=torch.uint8, device="cuda"))
                made += 1

        fraction = torch.cuda.get_per_process_memory_fraction()
        with pytest.raises(OutOfMemory, match="stopped at"):
            measure_memory(call, (), "cuda", 2**28)
        assert 4 < made < 20
        assert torch.cuda.get_per_process_memory_fraction() == fraction

    @pytest.mark.parametrize("name", ["unrolled_hypergradient", "attention"])
    def test_the_arguments_on_the_host_do_not_count(self, name: str) -> None:
        call, arguments = PROGRAMS[name]()
        assert measure_memory(call, arguments, "cuda")[1].peak_bytes == 0
