"""Which cells of a group are timed together: as many as fit into memory, for a process that waits keeps what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metabench.core.lazy import torch
from metabench.measure.processor import machine_bytes
from metabench.suite.plan.cell import Cell

PROCESS_BYTES = 400 * 2**20
"""A process with torch and next to no tensors."""

DEVICE_BYTES = 600 * 2**20
"""What each process takes of a GPU: its CUDA context and the kernels that it has loaded."""


def parts(cells: Sequence[Cell], peaks: Mapping[str, int], baseline: str, room: int, each: int) -> list[list[Cell]]:
    """Return the cells in parts that fit into `room` bytes, each with the cells of the baseline in it, so that all are compared with it.

    peaks: bytes of one hypergradient by the cell's hash. each: bytes that a process takes besides. A part has one cell besides the
    baseline's at least, whether or not they fit.
    """

    def bytes_of(some: Sequence[Cell]) -> int:
        return sum(peaks[cell.hash] + each for cell in some)

    always = [cell for cell in cells if cell.method == baseline]
    others = [cell for cell in cells if cell.method != baseline]
    found = [list(always)]
    for cell in others:
        if len(found[-1]) > len(always) and bytes_of([*found[-1], cell]) > room:
            found.append(list(always))
        found[-1].append(cell)
    return [part for part in found if part]


def room(device: str, granted_bytes: int | None) -> tuple[int, int]:
    """Return the bytes that the cells of a part may hold together, and what each process takes besides.

    On a CPU it is half of the machine's memory, or less if the job was granted less; on a GPU nine tenths of the GPU's.
    """
    if device != "cpu":
        return int(0.9 * torch.cuda.get_device_properties(torch.device(device)).total_memory), DEVICE_BYTES
    half = machine_bytes() // 2
    return min(half, granted_bytes or half), PROCESS_BYTES
