"""The memory of a call, without making it: the call on fake tensors, under a ledger of what the allocator would be asked for.

The definition is that of `measure_memory`: static bytes of the arguments, dynamic bytes of the peak during the call. Nothing is
computed and nothing of the problem's size is allocated, so that a machine with little memory and no GPU can answer for one with much.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from metabench.core.errors import unknown
from metabench.core.lazy import torch
from metabench.measure.device import DEVICES
from metabench.measure.memory.allocator_events import AllocatorEvents, _allocations
from metabench.measure.memory.meter import Memory
from metabench.measure.memory.storages import _tensors

SOURCE = "predicted"

CUDA_BLOCK = 512
"""Bytes in multiples of which CUDA's allocator counts."""

_SMALL = 2**18
"""Dynamic bytes up to which what a call allocates for real counts too: the numbers in its formulas, 8 bytes each, and the states of
generators. Above, they are far below a percent."""

_MARK = 104_729
"""Bytes of a block that marks an entry of the ledger in the allocator's record. A prime: no tensor of numbers has as many."""


@dataclass(frozen=True)
class PredictedCall:
    """What a call would need: its memory, floating-point operations by torch's formulas, and how many operations torch would run.

    note: what the memory leaves out; empty where nothing is known to be.
    """

    memory: Memory
    flops: int
    operations: int
    note: str = ""


@contextlib.contextmanager
def fake_tensors() -> Iterator[Any]:
    """Make every tensor created in the block a fake one: it has a shape, dtype and device, and no memory.

    Yields the mode, which `predict_memory` takes. Tensors from before the block are read as fake ones where an operation meets them.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        # A module's parameters are compared by their addresses when they are copied; those of fake tensors are all zero.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield mode


def predict_memory(
    call: Callable[[], Any],
    arguments: Any,
    fakes: Any,
    device: str = "cpu",
    before: Callable[[], Any] | None = None,
    known: Any = None,
) -> PredictedCall:
    """Return what `measure_memory` would find for `call` on `device`. To be called inside the block of `fake_tensors`.

    The tensors of `call` and of `arguments` are fake, made on a CPU; with `device` 'cuda' blocks are counted as CUDA's allocator does, and
    no CPU kernel's workspace is added. Workspaces of cuDNN are not known. Numbers that the call reads from its tensors are 1, so that it
    takes all steps of a solver: a call that would stop early may need less.

    `before` is a short call that leaves behind, in caches, what `call` would: then `call` is simulated once where it would be twice.
    `known`, a `flat_runs.KnownRuns`, is what calls that differ in their number of steps alone have found of one, and finds more.

    Raises:
        MetabenchError: a device other than 'cpu' and 'cuda'.
        Exception: whatever the call raises, and what torch raises of an operation whose result's shape depends on values.
    """
    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise unknown("device", device, DEVICES)
    static = _distinct_bytes(arguments)
    prepared = before is not None and kind == "cpu" and static <= _SMALL
    if prepared:
        with contextlib.suppress(Exception):  # whatever it raises, the call raises too
            _ran(before, fakes, kind, known)
    found, left = _counted(call, fakes, kind, prepared, known)
    is_small = kind == "cpu" and found.dynamic_bytes <= _SMALL
    # What stays behind was made once per process: a second call finds it there, as the measured one does.
    if left or (is_small and not prepared):
        found, _ = _counted(call, fakes, kind, is_small, known)
    memory = Memory(static + found.dynamic_bytes, static, found.dynamic_bytes, SOURCE)
    return PredictedCall(memory, found.flops, found.operations, found.note)


class _Counted(NamedTuple):
    """What a simulated call came to."""

    dynamic_bytes: int
    flops: int
    operations: int
    note: str


def _counted(call: Callable[[], Any], fakes: Any, device: str, with_real: bool, known: Any) -> tuple[_Counted, int]:
    """Return what a call takes, and what it leaves behind; where it is small, `with_real` counts what it allocates for real, too."""
    entries: list[tuple[int, int]] = []
    with AllocatorEvents() if with_real else contextlib.nullcontext() as record:
        ledger, left, note = _ran(call, fakes, device, known, _marking(entries) if with_real else None)
    small = record is not None and ledger.peak_bytes <= _SMALL
    dynamic = _peak_of_both(record, entries) if small else ledger.peak_bytes
    return _Counted(dynamic, ledger.flops, ledger.operations, note), left


def _ran(
    call: Callable[[], Any], fakes: Any, device: str, known: Any, tell: Callable[[int, int], None] | None = None
) -> tuple[Any, int, str]:
    """Run the call and return its ledger, the bytes that it left behind beside its result, and what the ledger leaves out."""
    from metabench.measure.predicted.ledger import Ledger
    from metabench.measure.predicted.workspaces import Workspaces

    workspaces = Workspaces() if device == "cpu" else None
    ledger = Ledger(fakes, workspaces, CUDA_BLOCK if workspaces is None else 1, tell, known)
    was_on = gc.isenabled()
    gc.disable()
    try:
        with ledger:
            result = call()
        left = ledger.live_bytes - ledger.bytes_of(list(_tensors(result)))
        return ledger, left, "" if workspaces is None else workspaces.note
    finally:
        if was_on:
            gc.enable()


def _marking(entries: list[tuple[int, int]]) -> Callable[[int, int], None]:
    """Return what notes an entry of the ledger, and its place in the allocator's record."""

    def tell(size: int, beyond: int) -> None:
        entries.append((size, beyond))
        torch.UntypedStorage(_MARK)

    return tell


def _peak_of_both(record: AllocatorEvents, entries: list[tuple[int, int]]) -> int:
    """Return the peak of the ledger's blocks and of those that the call allocated for real."""
    waiting = iter(entries)
    blocks: dict[int, int] = {}
    live = peak = 0
    for _, address, size in _allocations(record._results.experimental_event_tree()):
        beyond = 0
        if size == _MARK:
            change, beyond = next(waiting)
        elif size > 0:
            change = blocks[address] = size
        else:
            change = -blocks.pop(address, 0)
        live += change
        peak = max(peak, live + beyond)
    return peak


def _distinct_bytes(tree: Any) -> int:
    """Return the bytes of the distinct storages of all tensors in `tree`, fake or not."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in _tensors(tree)}
    return sum(storage.nbytes() for storage in storages.values())
