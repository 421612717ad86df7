"""The peak of a call is predicted without making it: exactly, where its kernels allocate nothing that is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from memory_programs import PROGRAMS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metabench.core.errors import MetabenchError
from metabench.measure.memory.allocator_events import AllocatorEvents
from metabench.measure.memory.meter import measure_memory
from metabench.measure.predicted.memory import CUDA_BLOCK, PredictedCall, fake_tensors, predict_memory

MEBIBYTE = 2**20
Build = Callable[[], tuple[Callable[[], Any], Any]]


def predicted(build: Build, device: str = "cpu") -> PredictedCall:
    with fake_tensors() as fakes:
        call, arguments = build()
        return predict_memory(call, arguments, fakes, device)


def measured(build: Build) -> Any:
    call, arguments = build()
    call()
    return measure_memory(call, arguments, "cpu")[1]


def agrees_exactly(build: Build) -> bool:
    there, found = measured(build), predicted(build).memory
    return (found.static_bytes, found.dynamic_bytes) == (there.static_bytes, there.dynamic_bytes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_predicted_within_a_hundredth(name: str) -> None:
    there, found = measured(PROGRAMS[name]), predicted(PROGRAMS[name]).memory
    assert found.static_bytes == there.static_bytes
    assert found.peak_bytes == pytest.approx(there.peak_bytes, rel=0.01)


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_engine_adds_gradients_in_place_where_no_graph_is_recorded(create_graph: bool) -> None:
    def build() -> Any:
        weights = torch.ones(60, 60, requires_grad=True)

        def call() -> Any:
            loss = sum((weights * float(factor)).sin().sum() for factor in range(2, 6))
            return torch.autograd.grad(loss, weights, create_graph=create_graph)

        return call, weights

    assert agrees_exactly(build)


@pytest.mark.parametrize(
    "twice",
    [
        lambda w: (w + w.sin()).sum(),  # the gradient of the sum goes on to both of its terms
        lambda w: w.sum() + w.cos().sum(),  # an expanded number cannot be written to
        lambda w: w.t().sin().sum() + w.cos().sum() + w[:10].exp().sum(),
        lambda w: (w.sin() * w.sin().detach()).sum() + (w @ w).sum() + (w * w).sum(),
    ],
)
def test_the_engine_adds_out_of_place_what_another_holds_or_cannot_be_written(twice: Any) -> None:
    def build() -> Any:
        weights = torch.ones(60, 60, requires_grad=True)
        return lambda: torch.autograd.grad(twice(weights), weights), weights

    assert agrees_exactly(build)


def test_dual_numbers_vectorised_calls_and_checkpoints_are_predicted() -> None:
    def loss(weights: torch.Tensor) -> torch.Tensor:
        return torch.tanh(weights @ weights).square().sum()

    def dual() -> Any:
        weights, direction = torch.ones(40, 40), torch.ones(40, 40)
        return lambda: torch.func.jvp(torch.func.grad(loss), (weights,), (direction,)), (weights, direction)

    def vectorised() -> Any:
        weights = torch.ones(6, 30, 30)
        return lambda: torch.func.vmap(torch.func.grad(loss))(weights), weights

    def checkpointed() -> Any:
        weights = torch.ones(40, 40, requires_grad=True)

        def call() -> Any:
            hidden = weights
            for _ in range(4):
                hidden = torch.utils.checkpoint.checkpoint(lambda h: (h @ weights).sin(), hidden, use_reentrant=False)
            return torch.autograd.grad(hidden.sum(), weights)

        return call, weights

    assert agrees_exactly(dual)
    assert agrees_exactly(vectorised)
    assert agrees_exactly(checkpointed)


def test_numbers_in_formulas_count_where_tensors_are_as_small() -> None:
    def build() -> Any:
        x = torch.ones((), requires_grad=True)

        def call() -> Any:
            y = x
            for _ in range(5):
                y = (2.0 * y - 1) ** 2 / 3 + x
            return torch.autograd.grad(y, x)

        return call, x

    assert agrees_exactly(build)


def test_generators_and_their_states_are_predicted() -> None:
    def build() -> Any:
        stream = torch.Generator()

        def call() -> Any:
            again = torch.Generator()
            again.set_state(stream.get_state())
            drawn = torch.randn(50, generator=again), torch.rand(50, generator=again)
            return (*drawn, torch.randperm(40, generator=stream), torch.randint(5, (9,), generator=stream))

        return call, ()

    there, found = measured(build), predicted(build).memory
    assert found.dynamic_bytes == pytest.approx(there.dynamic_bytes, rel=0.01)
    assert found.dynamic_bytes > 5000


def test_numbers_read_from_tensors_let_a_solver_take_all_its_steps() -> None:
    taken: list[int] = []

    def build() -> Any:
        x = torch.ones(64)

        def call() -> torch.Tensor:
            residual, steps = x, 0
            while steps < 7 and float(residual.norm()) > 1e-12 and bool(torch.isfinite(residual).all()):
                residual, steps = residual / 10, steps + 1
            taken.append(steps)
            assert torch.equal(x, x)
            assert int(torch.arange(5).sum()) == 1
            assert x.tolist() == [1.0] * 64
            return residual

        return call, x

    assert predicted(build).operations > 0
    assert set(taken) == {7}


def test_masks_and_places_of_non_zeros_are_taken_to_be_full() -> None:
    def build() -> Any:
        values = torch.arange(1.0, 101.0).reshape(10, 10)
        call = lambda: (values[values > 0], values.nonzero(), values.masked_select(values > 0))  # noqa: E731
        return call, values

    there, found = measured(build), predicted(build).memory
    assert found.dynamic_bytes == pytest.approx(there.dynamic_bytes, rel=0.4)


def test_what_is_made_once_a_process_is_not_part_of_a_call() -> None:
    def build() -> Any:
        weights, kept = torch.ones(300, 300), []

        def call() -> torch.Tensor:
            if not kept:
                kept.append(torch.ones(1000, 1000))
            return weights + kept[0][:300, :300]

        return call, weights

    assert predicted(build).memory.dynamic_bytes == 300 * 300 * 4


def test_writing_and_resizing_in_place_are_predicted() -> None:
    def build() -> Any:
        square = torch.ones(300, 300)

        def call() -> torch.Tensor:
            square.clone().add_(square).relu_().mul_(square)
            grown = torch.ones(100_000).resize_(300_000)
            return torch.add(square, square, out=grown[:90_000].view(300, 300))

        return call, square

    assert agrees_exactly(build)


def test_on_cuda_blocks_are_of_512_bytes_and_kernels_of_the_cpu_do_not_count() -> None:
    def small() -> Any:
        rows = [torch.ones(3) for _ in range(10)]
        return lambda: [row * row for row in rows], rows

    found = predicted(small, "cuda").memory
    assert (found.static_bytes, found.dynamic_bytes) == (10 * 12, 10 * CUDA_BLOCK)

    def convolution() -> Any:
        # In float64 torch writes out columns, whatever the instruction set.
        images, taps = torch.ones(8, 16, 32, 32).double(), torch.ones(16, 16, 3, 3).double()
        return lambda: torch.conv2d(images, taps, padding=1), (images, taps)

    result = 8 * 16 * 32 * 32 * 8
    assert predicted(convolution, "cuda:1").memory.dynamic_bytes == result
    assert predicted(convolution, "cpu").memory.dynamic_bytes > result


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(MetabenchError, match="unknown device 'cud': did you mean 'cuda'"):
        predicted(PROGRAMS["adam"], "cud")


def test_floating_point_operations_are_those_of_torchs_counter() -> None:
    call, _ = PROGRAMS["transformer_block"]()
    with FlopCounterMode(display=False) as counter:
        call()
    assert predicted(PROGRAMS["transformer_block"]).flops == counter.get_total_flops() > 0


def test_a_network_of_a_billion_parameters_costs_no_memory() -> None:
    width, layers = 8192, 15

    def build() -> Any:
        network = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
        inputs = torch.randn(64, width)
        return lambda: torch.autograd.grad(F.gelu(network(inputs)).sum(), list(network.parameters())), network

    with AllocatorEvents() as record:
        found = predicted(build).memory
    assert found.static_bytes > 10**9 * 4
    assert found.dynamic_bytes > found.static_bytes
    assert record.peak_bytes < MEBIBYTE
