"""The CPU allocator's own record of a call: every allocation and every release, with its bytes.

torch's profiler reports each allocator event below the level of operations. It therefore sees what kernels allocate
inside (the columns of a convolution, the workspace of a softmax) and what the autograd engine and compiled code hold,
and it does not change the program. `__torch_dispatch__` would change it: the engine no longer accumulates gradients in
place, and compiled code falls back.

The record omits the events of operations (it listens to user scopes only); with them a call of small operations
would take three times as long.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from metabench.core.lazy import torch


class AllocatorEvents:
    """Records the CPU allocator during a `with` block. The bytes are those asked for, without alignment.

    The record does not know memory from before the block, and ignores its release. It does not see threads that Python
    code starts inside the block; it sees those of the autograd engine. Raises RuntimeError if torch's profiler is
    already running.
    """

    def __init__(self) -> None:
        self._results: Any = None
        self._curve: list[int] | None = None

    def __enter__(self) -> AllocatorEvents:
        if _profiler()._profiler_enabled():
            raise RuntimeError("the memory of a call cannot be measured while torch's profiler runs on this thread")
        # Kineto writes two lines about itself to stderr at every use, below this level.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        settings = _profiler().profiler.profile(profile_memory=True)
        activities = settings.kineto_activities
        scopes = {torch._C._profiler.RecordScope.USER_SCOPE}
        _profiler()._prepare_profiler(settings.config(create_trace_id=True), activities)
        _profiler()._enable_profiler(settings.config(), activities, scopes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _profiler()._profiler_enabled():
            self._results = _profiler()._disable_profiler()

    @property
    def peak_bytes(self) -> int:
        """The largest number of bytes that the block had allocated and not yet released."""
        return max(self._live(), default=0)

    def _live(self) -> list[int]:
        """Return the live bytes after each event."""
        if self._curve is None:
            if self._results is None:
                raise RuntimeError("the allocator's record is read after its block has ended")
            self._curve = _live_curve(_allocations(self._results.experimental_event_tree()))
            self._results = None
        return self._curve


def _profiler() -> Any:
    """Return the profiler's entry points in torch; unlike the public class, they accept scopes."""
    return torch.autograd


def _allocations(roots: list[Any]) -> list[tuple[int, int, int]]:
    """Return (time, address, signed bytes) of all events of the CPU allocator, in their order."""
    found = []
    waiting = list(reversed(roots))
    while waiting:
        event = waiting.pop()
        waiting.extend(reversed(event.children))
        if event.name == "[memory]":
            fields = event.extra_fields
            if fields.device.type == "cpu":
                found.append((event.start_time_ns, fields.ptr, fields.alloc_size))
    # User scopes nest their events and threads come one after another; the sort is stable, so that ties keep the order
    # of their thread.
    found.sort(key=lambda entry: entry[0])
    return found


def _live_curve(events: list[tuple[int, int, int]]) -> list[int]:
    """Return the live bytes after each event, of memory that was allocated in the record.

    Blocks are tracked by address: torch keeps the block sizes of an earlier record, and reports the release of a block at
    such an address with the old size, even if another block has been allocated there since.
    """
    blocks: dict[int, int] = {}
    live, curve = 0, []
    for _, address, size in events:
        if size > 0:
            blocks[address] = size
            live += size
        elif address in blocks:
            live -= blocks.pop(address)
        else:
            continue
        curve.append(live)
    return curve
