"""What the meter of storages counts: memory that is there."""

from __future__ import annotations

import torch
from storage_meter import StorageMeter

from metabench.measure.memory.allocator_events import AllocatorEvents


def test_zeros_that_are_not_written_out_have_no_memory() -> None:
    with AllocatorEvents() as events, StorageMeter() as storages:
        zeros = torch._efficientzerotensor(1000)
        total = zeros + torch.ones(3, 1000)
    assert total.sum() == 3000
    assert storages.peak_bytes == events.peak_bytes == 2 * 12_000


def test_storages_are_no_more_than_the_allocator_gives_out_in_forward_over_reverse() -> None:
    weights, inputs, direction = torch.ones(30, 20), torch.ones(40, 30), torch.ones(30, 20)

    def call() -> None:
        def loss(trained: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
            return torch.tanh(examples @ trained).square().sum() + trained.exp().sum()

        torch.func.jvp(lambda at: torch.func.grad(loss, argnums=(0, 1))(at, inputs), (weights,), (direction,))

    with StorageMeter():
        call()
    with AllocatorEvents() as events, StorageMeter() as storages:
        call()
    assert 0 < storages.peak_bytes <= events.peak_bytes
    assert storages.live_bytes == events._live()[-1] == 0


def test_only_storages_of_the_devices_type_count() -> None:
    with StorageMeter(torch.device("cpu")) as here, StorageMeter(torch.device("cuda")) as elsewhere:
        torch.ones(100) + torch.ones(100)
    assert here.peak_bytes == 1200
    assert elsewhere.peak_bytes == 0
