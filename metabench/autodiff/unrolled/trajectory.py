"""What a backward sweep keeps of the inner run: states, and their inner gradients if these are not to be recomputed."""

from __future__ import annotations

from typing import NamedTuple

from metabench.autodiff.inner import leaves_of, with_leaves
from metabench.core import tree
from metabench.core.lazy import torch
from metabench.core.types import InnerState, Tree


class Visit(NamedTuple):
    """State k of an inner run, and the inner gradient of step k if it is kept."""

    state: InnerState
    gradient: Tree | None


class Trajectory:
    """Visits by their step, on the device where they were made."""

    def __init__(self) -> None:
        self._kept: dict[int, Visit] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def last(self) -> int:
        """Return the latest step kept."""
        return max(self._kept)

    def keep(self, k: int, visit: Visit) -> None:
        """Keep a visit, or replace it."""
        self._kept[k] = visit

    def at(self, k: int) -> Visit:
        """Return what is kept of step k, on the device."""
        return self._kept[k]

    def drop(self, k: int) -> None:
        """Free step k, if it is kept."""
        self._kept.pop(k, None)


class HostTrajectory(Trajectory):
    """Visits in host memory, brought back on request. On a CPU that is the same memory.

    From CUDA the copies go into page-locked memory on a separate stream, in parallel with the steps that follow. A visit's device memory is
    held until its copy is complete, and its copy is complete before it is loaded back.
    """

    def __init__(self) -> None:
        super().__init__()
        self._devices: dict[int, torch.device] = {}
        self._copied: dict[int, torch.cuda.Event] = {}
        self._stream: torch.cuda.Stream | None = None

    def keep(self, k: int, visit: Visit) -> None:
        """Copy a visit to the host."""
        device = next(iter(visit.state.params.values())).device
        self._devices[k] = device
        if device.type != "cuda":
            super().keep(k, visit)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            super().keep(k, _mapped(visit, self._to_host))
        self._copied[k] = self._stream.record_event()

    def at(self, k: int) -> Visit:
        """Return the visit on the device that it came from."""
        visit, device = super().at(k), self._devices[k]
        if device.type != "cuda":
            return visit
        self._copied[k].synchronize()
        return _mapped(visit, lambda leaves: tree.tree_map(lambda leaf: leaf.to(device, non_blocking=True), leaves))

    def _to_host(self, leaves: Tree) -> Tree:
        def copied(leaf: torch.Tensor) -> torch.Tensor:
            host = torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=True)
            host.copy_(leaf, non_blocking=True)
            # The allocator must not hand the leaf's memory out before this stream has read it.
            leaf.record_stream(self._stream)  # type: ignore[arg-type]
            return host

        return tree.tree_map(copied, leaves)


def _mapped(visit: Visit, function: object) -> Visit:
    assert callable(function)
    state = with_leaves(visit.state, [function(leaves) for leaves in leaves_of(visit.state)])
    return Visit(state, None if visit.gradient is None else function(visit.gradient))
