"""Gram matrices of many points: by blocks, kept on disk as they are finished, and what they cost before they start.

A kernel of images takes hours where a Gram matrix has millions of pairs. So each block becomes a file as soon as it is finished, a run
that was killed goes on where it was, and the whole is one file under a hash of the points and the architecture. Of a symmetric matrix only
blocks on and above the diagonal are computed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from metabench.core.arrays import read_arrays, write_arrays
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.kernels.dense import Kernels

FORMAT = 1
"""Of the files, and part of their hash: raise it where a kernel's numbers change."""
_MEASURABLE = 0.05
"""Seconds that a block takes at least whose time is believed."""
Kernel: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], Kernels]"
"""From points [n, ...] and [m, ...] to the kernels of all pairs."""


@dataclass(frozen=True)
class Cost:
    """What a Gram matrix costs.

    Attributes:
        pairs: that are computed.
        seconds_per_pair: as measured on a small block.
        result_bytes: of both matrices.
        block_bytes: of one block at its peak, with its results.
    """

    pairs: int
    seconds_per_pair: float
    result_bytes: int
    block_bytes: int

    @property
    def seconds(self) -> float:
        """Return the predicted time of all pairs."""
        return self.pairs * self.seconds_per_pair

    @property
    def bytes(self) -> int:
        """Return the predicted peak: the results and one block."""
        return self.result_bytes + self.block_bytes

    def __str__(self) -> str:
        """Return the sentence that is printed before a computation starts."""
        return (
            f"{self.pairs:,} pairs at {1e3 * self.seconds_per_pair:.3g} ms each: about {self.seconds:.3g} s, and {self.bytes:,} bytes "
            "of memory"
        )


@dataclass(frozen=True)
class Gram:
    """Gram matrices of a kernel.

    Attributes:
        kernel: of the network, such as `MLP(...).kernels` or `ConvNet(...).kernels`.
        architecture: what tells this kernel from any other, such as `repr(ConvNet(...))`; part of the hash.
        folder: where files are kept; None: nowhere.
        block: points in the rows, and in the columns, of a block.
        block_bytes: from rows and columns of a block to the bytes that the kernel takes, its results included; None: its results alone.
        memory: bytes that may be taken; None: what is free on the device.
        report: called with a sentence before a computation starts: the blocks that are left, and what they cost.
    """

    kernel: Kernel
    architecture: str
    folder: Path | None = None
    block: int = 64
    block_bytes: Callable[[int, int], int] | None = None
    memory: int | None = None
    report: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        """Raise MetabenchError where a block has no points."""
        if self.block < 1:
            raise MetabenchError(f"blocks of {self.block} points: expected 1 or more")

    def key(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> str:
        """Return the hash of the points, the architecture, the dtype and the format: 32 hexadecimal digits."""
        return self._key("pairs", (rows,) if columns is None else (rows, columns))

    def _key(self, purpose: str, of: Sequence[torch.Tensor]) -> str:
        found = hashlib.sha256(f"{FORMAT} {self.architecture} {purpose}".encode())
        for part in of:
            found.update(f" {tuple(part.shape)} {part.dtype} ".encode())
            found.update(part.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:32]

    def among(self, points: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> Kernels:
        """Return the kernels of some pairs: in each group, of rows of a table of points with others, shape [groups, r, c].

        They are kept as one file.

        Args:
            points: the table, shape [n, ...].
            rows: of the table, shape [groups, r].
            columns: likewise, shape [groups, c].

        Raises:
            MetabenchError: as `kernels`.
        """
        key = self._key("groups", (points, rows, columns))
        path = None if self.folder is None else self.folder / f"{key}.npz"
        shape = (*rows.shape, columns.shape[1])
        if path is not None and (stored := read(path, key, shape)) is not None:
            return _on(stored, points)
        found = [self.kernel(points[mine], points[others]) for mine, others in zip(rows, columns, strict=True)]
        whole = Kernels(torch.stack([one.nngp for one in found]), torch.stack([one.ntk for one in found]))
        if path is not None:
            _write(path, key, whole)
        return whole

    def path(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> Path | None:
        """Return the file of a finished Gram matrix; None without a folder."""
        return None if self.folder is None else self.folder / f"{self.key(rows, columns)}.npz"

    def cost(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> Cost:
        """Return what a Gram matrix costs: the time per pair is that of a first block, small, but large enough to be measured."""
        others = rows if columns is None else columns
        return self._cost(rows, others, list(self._blocks(len(rows), len(others), columns is None)))

    def _cost(self, rows: torch.Tensor, others: torch.Tensor, blocks: Sequence[tuple[slice, slice]]) -> Cost:
        self.kernel(rows[:1], others[-1:])  # The first call prepares more than its pair.
        seconds, points = self._seconds(rows[:1], others[-1:]), 1
        while seconds < _MEASURABLE and points < min(self.block, max(len(rows), len(others))):
            points *= 2
            seconds = self._seconds(rows[:points], others[-points:])
        size = rows.element_size()
        return Cost(
            sum((down.stop - down.start) * (across.stop - across.start) for down, across in blocks),
            seconds / (len(rows[:points]) * len(others[-points:])),
            2 * len(rows) * len(others) * size,
            self._block_bytes(min(self.block, len(rows)), min(self.block, len(others)), size),
        )

    def kernels(self, rows: torch.Tensor, columns: torch.Tensor | None = None) -> Kernels:
        """Return the kernels of all pairs, shape [n, m] each; of rows with themselves without columns, exactly symmetric.

        Raises:
            MetabenchError: there are no points; both matrices and a block are larger than memory, which is said before anything is
                computed; a file is of other points or another architecture, or cannot be written.
        """
        others = rows if columns is None else columns
        if not len(rows) or not len(others):
            raise MetabenchError(f"a Gram matrix of {len(rows)} by {len(others)} points: expected 1 or more")
        self._fits(rows, others)
        key = self.key(rows, columns)
        path = None if self.folder is None else self.folder / f"{key}.npz"
        shape = (len(rows), len(others))
        if path is not None and (stored := read(path, key, shape)) is not None:
            return _on(stored, rows)
        parts = None if path is None else path.with_suffix(".parts")
        found = Kernels(*(rows.new_zeros(shape) for _ in range(2)))
        missing = list(self._resumed(found, parts, key, columns is None))
        if self.report is not None and missing:
            blocks = sum(1 for _ in self._blocks(*shape, columns is None))
            self.report(f"{len(missing)} of {blocks} blocks are left: {self._cost(rows, others, missing)}")
        for down, across in missing:
            some = rows[down]
            part = self.kernel(some, some if columns is None and down == across else others[across])
            if part.ntk.shape != (len(some), across.stop - across.start):
                raise MetabenchError(
                    f"the kernel of {len(some)} by {across.stop - across.start} points has the shape {list(part.ntk.shape)}: expected "
                    "a number for each pair"
                )
            if parts is not None:
                _write(_part(parts, down, across), key, part)
            _place(found, part, down, across, columns is None)
        if path is not None and parts is not None:
            _write(path, key, found)
            shutil.rmtree(parts, ignore_errors=True)
        return found

    def _blocks(self, rows: int, columns: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
        for top in range(0, rows, self.block):
            for left in range(top if symmetric else 0, columns, self.block):
                yield slice(top, min(top + self.block, rows)), slice(left, min(left + self.block, columns))

    def _resumed(self, found: Kernels, parts: Path | None, key: str, symmetric: bool) -> Iterator[tuple[slice, slice]]:
        """Place the blocks that were finished before, and yield those that were not."""
        rows, columns = found.ntk.shape
        for down, across in self._blocks(rows, columns, symmetric):
            shape = (down.stop - down.start, across.stop - across.start)
            stored = None if parts is None else read(_part(parts, down, across), key, shape)
            if stored is None:
                yield down, across
            else:
                _place(found, _on(stored, found.ntk), down, across, symmetric)

    def _block_bytes(self, rows: int, columns: int, itemsize: int) -> int:
        return 2 * rows * columns * itemsize if self.block_bytes is None else self.block_bytes(rows, columns)

    def _fits(self, rows: torch.Tensor, others: torch.Tensor) -> None:
        """Raise MetabenchError where a Gram matrix is larger than memory."""
        size = rows.element_size()
        block = self._block_bytes(min(self.block, len(rows)), min(self.block, len(others)), size)
        needed, free = 2 * len(rows) * len(others) * size + block, _free(rows) if self.memory is None else self.memory
        if needed > free:
            raise MetabenchError(
                f"the Gram matrices of {len(rows):,} by {len(others):,} points take {needed:,} bytes, {block:,} of them for a block, "
                f"and {free:,} are free: take fewer points, or smaller blocks than of {self.block}"
            )

    def _seconds(self, rows: torch.Tensor, columns: torch.Tensor) -> float:
        _wait(rows)
        begun = time.perf_counter()
        self.kernel(rows, columns)
        _wait(rows)
        return time.perf_counter() - begun


def read(path: Path, key: str, shape: tuple[int, ...]) -> Kernels | None:
    """Return the kernels in a file, on the CPU; None where there is none, or it is damaged, with a warning.

    Raises:
        MetabenchError: the file is of other points, another architecture or another format.
    """
    found = read_arrays(path, key)
    if found is None:
        return None
    nngp, ntk = found["nngp"], found["ntk"]
    if nngp.shape != shape or ntk.shape != shape:
        raise MetabenchError(f"'{path}' is a Gram matrix {list(ntk.shape)}: expected {list(shape)}; move it away")
    return Kernels(torch.from_numpy(nngp), torch.from_numpy(ntk))


def _on(stored: Kernels, like: torch.Tensor) -> Kernels:
    return Kernels(stored.nngp.to(like.device), stored.ntk.to(like.device))


def _place(found: Kernels, part: Kernels, down: slice, across: slice, symmetric: bool) -> None:
    """Write a block where it belongs, and where it is mirrored; of one on the diagonal, the upper half is right for both."""
    for whole, value in ((found.nngp, part.nngp), (found.ntk, part.ntk)):
        if symmetric and down == across:
            value = value.triu() + value.triu(1).mT
        whole[down, across] = value
        if symmetric and down != across:
            whole[across, down] = value.mT


def _part(folder: Path, down: slice, across: slice) -> Path:
    return folder / f"{down.start}-{down.stop}_{across.start}-{across.stop}.npz"


def _write(path: Path, key: str, kernels: Kernels) -> None:
    """Write a file completely or not at all; raise MetabenchError where that fails."""
    write_arrays(path, key, {"nngp": kernels.nngp.cpu().numpy(), "ntk": kernels.ntk.cpu().numpy()})


def _free(like: torch.Tensor) -> int:
    """Return the bytes that are free on a device."""
    if like.device.type == "cuda":
        return int(torch.cuda.mem_get_info(like.device)[0])
    available = Path("/proc/meminfo")
    if available.exists():
        for line in available.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _wait(like: torch.Tensor) -> None:
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)
