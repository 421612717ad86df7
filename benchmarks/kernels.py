"""Kernels of infinitely wide convolutional networks: time per pair of images, by the size of a block, and memory of a block.

    python benchmarks/kernels.py                                          # a minute on one core
    python benchmarks/kernels.py --neural-tangents /path/to/venv/bin/python  # beside neural-tangents 0.6.5, in the same run
    python benchmarks/kernels.py --cuda                                   # 32 x 32 pixels, 20 layers, on a GPU

Times are the processor's, on one thread, the median of rounds; those of a GPU are by the clock. Both libraries use all instructions that
there are. Networks are of ReLU and three layers, the GPU's excepted. Goals per pair on one core: global average pooling (GAP) in float64
0.75 ms at 8 x 8 pixels and 8.0 ms at 14 x 14, flattened 27 us at 14 x 14, GAP in float32 40 ms at 28 x 28; at most half of neural-tangents'
time; at any block size a time that grows no faster than pixels squared; memory predicted within 10 %; on a GPU 2 ms.
torchtangents, a port to PyTorch, could not be installed from PyPI when this was written, so there is no row of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from metabench.core.randomness import generator
from metabench.kernels.convolutional import CACHE, ConvNet
from metabench.measure.memory.meter import measure_memory

PEER = Path(__file__).with_name("kernels_peer.py")
BLOCKS = tuple(2**power for power in range(18, 26))
"""Bytes of the buffers of a block."""


@dataclass(frozen=True)
class Case:
    """Images of rows and of columns, their side in pixels, and the network that they go through."""

    readout: str
    size: int
    rows: int
    columns: int
    dtype: str
    goal: float | None = None

    @property
    def pairs(self) -> int:
        return self.rows * self.columns

    @property
    def network(self) -> ConvNet:
        return ConvNet(3, readout=self.readout)

    @property
    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        stream = generator(0, f"images of {self.size} pixels")
        drawn = torch.rand((self.rows + self.columns, 1, self.size, self.size), generator=stream, dtype=torch.float64)
        rows, columns = drawn.to(getattr(torch, self.dtype)).split((self.rows, self.columns))
        return rows, columns

    def __str__(self) -> str:
        return f"{self.readout}, {self.size} x {self.size}, {self.dtype}, {self.rows} by {self.columns}"


CASES = (
    Case("gap", 8, 8, 32, "float64", 0.75e-3),
    Case("gap", 14, 4, 8, "float64", 8.0e-3),
    Case("flatten", 14, 64, 64, "float64", 27e-6),
    Case("gap", 28, 1, 3, "float32", 40e-3),
)


def seconds(call: Callable[[], object], rounds: int, clock: Callable[[], float] = time.process_time) -> float:
    """Return the median time of a call, after one that is not counted."""
    call()
    taken = []
    for _ in range(rounds):
        begun = clock()
        call()
        taken.append(clock() - begun)
    return statistics.median(taken)


def _per_pair(case: Case, rounds: int, cache: int | None = None) -> float:
    rows, columns = case.images
    return seconds(lambda: case.network.kernels(rows, columns, cache), rounds) / case.pairs


def _ms(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} us"


def times(rounds: int, python: str | None) -> Table:
    """Return the time of a pair in each case; with the interpreter of a peer, its time before and after, and how far the two are apart."""
    heads = ("", "per pair", "goal", *(("neural-tangents", "ratio", "largest difference") if python else ()))
    table = Table(*heads, title="time per pair")
    for case in CASES:
        rows, columns = case.images
        before = _peer(python, case, rounds) if python else None
        taken = _per_pair(case, rounds)
        cells = [str(case), _ms(taken), _ms(case.goal or 0.0)]
        if python and before:
            theirs = (before["seconds"] + _peer(python, case, rounds)["seconds"]) / 2 / case.pairs
            ntk, other = (
                case.network.kernels(rows, columns).ntk.double(),
                torch.tensor(before["ntk"], dtype=torch.float64),
            )
            cells += [
                _ms(theirs),
                f"{taken / theirs:.2f}",
                f"{float((ntk - other).abs().max() / other.abs().max()):.1e}",
            ]
        table.add_row(*cells)
    table.caption = "ratio: of the time here to neural-tangents', half at most is the goal; difference: of the tangent kernels, relative"
    return table


def _peer(python: str, case: Case, rounds: int) -> dict[str, Any]:
    """Return the seconds and the tangent kernel of neural-tangents, by a process of its own."""
    rows, columns = case.images
    given = {
        "readout": case.readout,
        "depth": case.network.depth,
        "W_std": case.network.W_std,
        "dtype": case.dtype,
        "rounds": rounds,
        "rows": rows.tolist(),
        "columns": columns.tolist(),
    }
    found = subprocess.run([python, str(PEER)], input=json.dumps(given), capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def blocks(rounds: int) -> Table:
    """Return the time per pair of pixels, which is to be the same for images of any size, by the bytes of a block."""
    sizes = {8: (4, 64), 14: (2, 16), 28: (1, 8)}
    table = Table(
        "block", *(f"{side} x {side}: pair" for side in sizes), *(f"{side} x {side}: pair of pixels" for side in sizes),
        "largest growth", title="GAP, float64, by bytes of a block",
    )  # fmt: skip
    for cache in BLOCKS:
        taken = {
            side: _per_pair(Case("gap", side, *counts, "float64"), rounds, cache) for side, counts in sizes.items()
        }
        pixels = {side: one / side**4 for side, one in taken.items()}
        growth = max(pixels[28] / pixels[14], pixels[14] / pixels[8], pixels[28] / pixels[8])
        table.add_row(
            f"{cache / 2**20:g} MiB" + (" *" if cache == CACHE["cpu"] else ""),
            *(_ms(one) for one in taken.values()),
            *(f"{1e9 * one:.1f} ns" for one in pixels.values()),
            f"{growth:.2f}",
        )
    table.caption = "growth: of the time per pair of pixels from fewer pixels to more, 1 where it grows as pixels squared; *: as shipped"
    return table


def memory() -> Table:
    """Return the memory of a block, predicted and measured, for the cases and other activations."""
    table = Table("", "predicted", "measured", "ratio", title="memory of a block of pairs")
    networks = [(str(case), case, case.network) for case in CASES]
    for readout, name, pools in (("gap", "erf", ()), ("flatten", "gelu", ()), ("pool", "relu", (1,))):
        case = Case(readout, 8, 16, 16, "float64")
        networks.append((f"{case}, {name}", case, ConvNet(3, name, 1.4, 0.1, readout, pools)))
    for name, case, network in networks:
        rows, columns = case.images
        _, found = measure_memory(
            lambda network=network, x=rows, y=columns: network.kernels(x, y), (rows, columns), "cpu"
        )
        predicted = network.block_bytes(rows.shape, case.columns, rows.element_size())
        table.add_row(name, f"{predicted:,}", f"{found.dynamic_bytes:,}", f"{predicted / found.dynamic_bytes:.3f}")
    return table


def accuracy() -> Table:
    """Return how far float32 is from float64, relative to the largest number."""
    table = Table("", "NNGP", "NTK", title="float32 against float64")
    for side in (14, 28):
        rows, columns = Case("gap", side, 1, 2, "float64").images
        network = ConvNet(3)
        exact, found = network.kernels(rows, columns), network.kernels(rows.float(), columns.float())
        errors = (
            (one - other).abs().max() / other.abs().max()
            for one, other in ((found.nngp, exact.nngp), (found.ntk, exact.ntk))
        )
        table.add_row(f"gap, {side} x {side}", *(f"{float(one):.1e}" for one in errors))
    return table


def cuda(rounds: int) -> Table:
    """Return the time of a pair of 32 x 32 pixels through 20 layers on a GPU, and the error of float32."""
    network, table = (
        ConvNet(20),
        Table("", "per pair", "error", title=f"GAP, 32 x 32, depth 20, {torch.cuda.get_device_name()}"),
    )
    rows, columns = (one.cuda() for one in Case("gap", 32, 2, 32, "float64").images)
    exact = network.kernels(rows, columns).ntk

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    for dtype in (torch.float64, torch.float32):
        x, y = rows.to(dtype), columns.to(dtype)
        taken = seconds(lambda x=x, y=y: network.kernels(x, y), rounds, clock) / (len(x) * len(y))
        error = float((network.kernels(x, y).ntk - exact).abs().max() / exact.abs().max())
        table.add_row(str(dtype), _ms(taken), f"{error:.1e}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--neural-tangents", metavar="PYTHON", help="interpreter of an environment with neural-tangents 0.6.5"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cuda", action="store_true", help="a GPU's row alone")
    given = parser.parse_args()
    console = Console(width=140)
    if given.cuda:
        console.print(cuda(given.rounds))
        return
    torch.set_num_threads(1)
    console.print(times(given.rounds, given.neural_tangents))
    console.print(blocks(given.rounds))
    console.print(memory())
    console.print(accuracy())


if __name__ == "__main__":
    main()
