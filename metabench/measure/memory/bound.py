"""A bound on the memory that a process may take, set below torch.

The allocation that would exceed it fails, and so does the call. It stops a call that cannot fit in the middle of a
forward or backward pass, at no cost and without changing the program. It is not a measurement: the system counts
pages and cached blocks, the meter counts bytes. So the bound allows a slack above the limit, and the meter decides
whether a call exceeded it.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

from metabench.core.lazy import torch

SLACK_BYTES = 512 * 2**20
"""Room for what is not tensors: modules imported late, libraries' scratch memory, stacks of threads."""

SLACK_SHARE = 0.25
"""Room for fragments of the heap and of the CUDA cache, as a share of the growth that is allowed."""


@contextlib.contextmanager
def memory_bound(growth_bytes: int, device: torch.device) -> Iterator[None]:
    """Within the block, let the process grow by at most `growth_bytes` plus the slack.

    On a CPU an allocation beyond it raises torch's RuntimeError of the allocator or MemoryError, on CUDA
    torch.OutOfMemoryError; `metabench.measure.outcome.is_allocation_failure` recognises them. CPU memory is bounded on
    Linux, where the kernel counts it; elsewhere the block runs unbounded.
    """
    room = growth_bytes + SLACK_BYTES + int(growth_bytes * SLACK_SHARE)
    with _cuda_bound(room, device) if device.type == "cuda" else _data_bound(room):
        yield


@contextlib.contextmanager
def _data_bound(room: int) -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    # Private writable pages: address space that is only reserved (arenas, libraries, files) does not count.
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[5]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [used + room, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _cuda_bound(room: int, device: torch.device) -> Iterator[None]:
    total = torch.cuda.get_device_properties(device).total_memory
    before = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(min(before, (torch.cuda.memory_reserved(device) + room) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)
