"""The memory of a call, to the byte, by the same definition on CPU and CUDA.

static: bytes of the distinct storages of the call's arguments. dynamic: the peak of the allocator's live bytes during
the call, minus those live before it. peak: their sum. Resident-set size is no substitute: it ranks methods by imports
and heap fragmentation.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from metabench.core.errors import OutOfMemory
from metabench.core.lazy import torch
from metabench.measure.device import measured_device, synchronise
from metabench.measure.memory.allocator_events import AllocatorEvents
from metabench.measure.memory.bound import memory_bound
from metabench.measure.memory.storages import storage_bytes
from metabench.measure.outcome import is_allocation_failure

Result = TypeVar("Result")

CPU_SOURCE = "cpu-allocator"
CUDA_SOURCE = "cuda-allocator"


@dataclass(frozen=True)
class Memory:
    """Bytes that a call needs. On CUDA the allocator counts in blocks of 512 bytes, on a CPU in the bytes asked for."""

    peak_bytes: int
    static_bytes: int
    dynamic_bytes: int
    source: str


def measure_memory(
    call: Callable[[], Result], arguments: Any, device: str | torch.device, limit_bytes: int | None = None
) -> tuple[Result, Memory]:
    """Run `call` once and return its result and its memory on `device`.

    `arguments` is every tensor passed to the call, closures included, as a tree (see `storages`). Other memory from before
    the call should outlive it, because not every allocator reports its release. Run the call once beforehand, so that
    one-time allocations per process (traces, cuBLAS workspaces) are not counted. Python's cyclic collector is off during
    the call; otherwise the bytes would depend on when it ran.

    Raises OutOfMemory if the peak exceeds `limit_bytes`. A call that exceeds it by more than a slack is interrupted
    (see `memory_bound`).
    """
    place = measured_device(device)
    static = storage_bytes(arguments, place)
    if limit_bytes is None:
        return _measured(call, place, static)
    if static > limit_bytes:
        raise OutOfMemory(f"the arguments alone take {static:,} bytes, the limit is {limit_bytes:,}")
    with memory_bound(limit_bytes - static, place):
        result, memory = _measured(call, place, static, limit_bytes)
    if memory.peak_bytes > limit_bytes:
        del result
        raise OutOfMemory(
            f"the call takes {memory.peak_bytes:,} live bytes at its peak "
            f"({static:,} static, {memory.dynamic_bytes:,} dynamic), the limit is {limit_bytes:,}"
        )
    return result, memory


def _measured(
    call: Callable[[], Result], device: torch.device, static: int, limit_bytes: int | None = None
) -> tuple[Result, Memory]:
    meter = _CudaPeak(device) if device.type == "cuda" else _CpuPeak()
    with _collector_off():
        try:
            with meter:
                result = call()
            return result, Memory(static + meter.dynamic_bytes, static, meter.dynamic_bytes, meter.source)
        except Exception as error:
            if limit_bytes is None or not is_allocation_failure(error):
                raise
            asked = _bytes_asked(str(error))
    # Raised here, where the failure is no longer handled: as its context it would keep every frame of the call, and so
    # its tensors, alive.
    live = static + meter.dynamic_bytes
    raise OutOfMemory(f"stopped at {live:,} live bytes{asked}, the limit is {limit_bytes:,}")


class _CpuPeak:
    source = CPU_SOURCE

    def __init__(self) -> None:
        self._events = AllocatorEvents()

    def __enter__(self) -> None:
        self._events.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._events.__exit__(*exception)

    @property
    def dynamic_bytes(self) -> int:
        return self._events.peak_bytes


class _CudaPeak:
    source = CUDA_SOURCE

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.dynamic_bytes = 0

    def __enter__(self) -> None:
        # cuBLAS keeps a workspace from its first use on; it must not be counted in the call that happens to come first.
        square = torch.zeros(16, 16, device=self._device)
        torch.mm(square, square)
        synchronise(self._device)
        del square
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def __exit__(self, *exception: Any) -> None:
        # An asynchronous failure of the device would hide the exception that is under way.
        if exception[0] is None:
            synchronise(self._device)
        self.dynamic_bytes = torch.cuda.max_memory_allocated(self._device) - self._before


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Collect all cyclic garbage, then keep the collector off within the block."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _bytes_asked(message: str) -> str:
    found = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", message)
    return f", asking for {found[1]} more" if found else ""
