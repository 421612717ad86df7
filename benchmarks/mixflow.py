"""Mixed-mode differentiation against its floors: memory, arithmetic, time and tracing; a table, checks, and one last line of JSON.

    python benchmarks/mixflow.py                 # about ten minutes on two cores
    python benchmarks/mixflow.py --quick         # memory and arithmetic alone, at T = 2 and 8
    python benchmarks/mixflow.py --no-compile    # without torch.compile, which needs a C++ compiler

One hypergradient of T inner SGD steps of a causal transformer (8 blocks, width 128, 4 heads, 16 sequences of 128 bytes of the Jargon File)
with respect to a log learning rate per parameter tensor, in float32 on one thread. Memory is the allocator's dynamic bytes, arithmetic is
PyTorch's FLOP count: both are the same at every run. Times are medians over interleaved rounds, so that what else runs on the machine hits
all alike. The exit status is 1 if a check fails; `--keep-going` prints the same and exits with 0.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from counted_flops import flop_counter
from restart import restart_with
from rich.console import Console
from rich.table import Table

from metabench import data
from metabench.autodiff.traced import segment_graphs
from metabench.autodiff.traced.memory_floor import mixed_mode_floor
from metabench.core import Hypergradient, tree
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.measure.kernels import PORTABLE
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method
from metabench.problems import problem

MODEL = {
    "width": 128,
    "heads": 4,
    "hidden": 512,
    "batch": 16,
    "sequence": 128,
    "optimiser": "sgd",
    "learning_rate": 0.05,
}
BLOCKS = 8
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "unrolled": ("unrolled", {}),
    "unrolled_remat": ("unrolled_remat", {}),
    "mixflow": ("mixflow", {}),
    "mixflow, recompute": ("mixflow", {"trajectory": "recompute"}),
    "mixflow, no block_remat": ("mixflow", {"block_remat": False}),
    "mixflow, no block_remat, compile": ("mixflow", {"block_remat": False, "compile": True}),
}


class Check(NamedTuple):
    """A number, the bound that it is held to, and whether it is below."""

    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Bench:
    """One problem of a depth and number of steps, and the hypergradients of its first window."""

    def __init__(self, blocks: int, steps: int) -> None:
        kind = problem("lm_learning_rates")
        options = build(kind.card.options, {**MODEL, "blocks": blocks}, "the benchmark")
        setting = Setting("1M", options, steps, 0, torch.device("cpu"), torch.float32, data.load("jargon"))
        self.problem = kind(setting)  # type: ignore[abstract]
        self.state, self.meta = self.problem.initial_state()
        self.window = next(self.problem.windows())[0]

    def call(self, variant: str) -> Hypergradient:
        """Return the hypergradient."""
        name, options = VARIANTS[variant]
        used = method(name)
        return used(
            self.problem, self.state, self.meta, self.window, build(used.options, options, name), generator(0, "none")
        )

    def dynamic_bytes(self, variant: str) -> int:
        """Return the dynamic bytes; the traces are made before."""
        if variant.startswith("mixflow"):
            self.call(variant)
        arguments = (self.state.params, self.state.optimiser, self.meta, self.window.inner, self.window.outer)
        return measure_memory(lambda: self.call(variant), arguments, "cpu")[1].dynamic_bytes

    def flops(self, variant: str) -> int:
        """Return the floating-point operations."""
        with flop_counter() as counter:
            self.call(variant)
        return int(counter.get_total_flops())

    @property
    def params_bytes(self) -> int:
        """Bytes of the parameters."""
        return sum(leaf.numel() * leaf.element_size() for leaf in self.state.params.values())

    @property
    def floor(self) -> int:
        """The analytic floor of mixed mode."""
        found = mixed_mode_floor(self.problem, self.state, self.meta, self.window)
        assert found is not None
        return found


def memory(quick: bool) -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of memory, and what was measured, in bytes."""
    found: dict[str, Any] = {}
    wanted = {2: ("mixflow", "unrolled_remat", "unrolled"), 8: ("mixflow", "unrolled_remat", "unrolled")}
    if not quick:
        wanted |= {4: ("mixflow",), 32: ("mixflow", "mixflow, recompute", "unrolled")}
    for steps, variants in wanted.items():
        bench = Bench(BLOCKS, steps)
        found[f"floor, T={steps}"] = bench.floor
        for variant in variants:
            found[f"{variant}, T={steps}"] = bench.dynamic_bytes(variant)
            gc.collect()
    shallow = Bench(BLOCKS // 2, 8)
    found["mixflow, half the blocks, T=8"] = shallow.dynamic_bytes("mixflow")
    deep = Bench(BLOCKS, 8)
    of_block = (deep.params_bytes - shallow.params_bytes) / (BLOCKS - BLOCKS // 2)
    stream = MODEL["batch"] * MODEL["sequence"] * MODEL["width"] * 4  # type: ignore[operator]
    growth = (found["mixflow, T=8"] - found["mixflow, half the blocks, T=8"]) / (BLOCKS - BLOCKS // 2)
    checks = [
        Check("unrolled / mixflow, T=8", found["unrolled, T=8"] / found["mixflow, T=8"], 17, True),
        Check("unrolled_remat / mixflow, T=8", found["unrolled_remat, T=8"] / found["mixflow, T=8"], 2.8, True),
        Check("mixflow / floor, T=8", found["mixflow, T=8"] / found["floor, T=8"], 1.25),
        Check(
            "bytes per added step / bytes of parameters",
            (found["mixflow, T=8"] - found["mixflow, T=2"]) / 6 / deep.params_bytes,
            2.1,
        ),
        # Of a block: its state at the boundary with its tangent, and its parameters at every step and in the cotangents.
        Check("bytes per added block / (boundary + parameters)", growth / (2 * stream + 17 * of_block), 1.02),
    ]
    if not quick:
        checks += [
            Check("unrolled / mixflow, T=32", found["unrolled, T=32"] / found["mixflow, T=32"], 24, True),
            Check(
                "unrolled / mixflow recompute, T=32",
                found["unrolled, T=32"] / found["mixflow, recompute, T=32"],
                60,
                True,
            ),
            Check("mixflow / floor, T=32", found["mixflow, T=32"] / found["floor, T=32"], 1.25),
        ]
    return checks, found


def arithmetic() -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of the FLOP counts at T=8, and the counts."""
    bench = Bench(BLOCKS, 8)
    found = {name: bench.flops(name) for name in ("unrolled", "unrolled_remat", "mixflow", "mixflow, no block_remat")}
    plain = found["unrolled"]
    return [
        Check("FLOPs, mixflow without block_remat / unrolled", found["mixflow, no block_remat"] / plain, 4 / 3 * 1.03),
        Check("FLOPs, mixflow / unrolled", found["mixflow"] / plain, 1.65),
    ], found


def times(rounds: int, compiled: bool, flops: dict[str, Any]) -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of time at T=8: medians over interleaved rounds, seconds."""
    bench = Bench(BLOCKS, 8)
    variants = ["unrolled", "unrolled_remat", "mixflow", "mixflow, no block_remat"]
    variants += ["mixflow, no block_remat, compile"] if compiled else []
    for variant in variants:
        bench.call(variant)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            begun = time.perf_counter()
            bench.call(variant)
            seconds[variant].append(time.perf_counter() - begun)
    found = {variant: statistics.median(taken) for variant, taken in seconds.items()}
    plain = found["unrolled"]
    checks = [
        Check(
            f"time, {variant} / unrolled, over its FLOP ratio",
            found[variant] / plain / (flops[variant] / flops["unrolled"]),
            1.15,
        )
        for variant in ("mixflow, no block_remat", "mixflow")
    ]
    checks.append(
        Check(
            "time, mixflow without block_remat / unrolled_remat",
            found["mixflow, no block_remat"] / found["unrolled_remat"],
            1.0,
        )
    )
    if compiled:
        ratio = found["mixflow, no block_remat, compile"] / found["unrolled_remat"]
        checks.append(Check("time, compiled without block_remat / unrolled_remat", ratio, 0.85))
    return checks, found


def traced_seconds(bench: Bench) -> float:
    """Return the processor's seconds that a first hypergradient spends on its traces."""
    build_graphs = segment_graphs.SegmentGraphs.__init__
    spent = []

    def timed(self: Any, *arguments: Any) -> None:
        begun = time.process_time()
        build_graphs(self, *arguments)
        spent.append(time.process_time() - begun)

    segment_graphs.SegmentGraphs.__init__ = timed  # type: ignore[method-assign]
    try:
        bench.call("mixflow")
    finally:
        segment_graphs.SegmentGraphs.__init__ = build_graphs  # type: ignore[method-assign]
    return sum(spent)


def tracing() -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of tracing: its time at two depths, and the second call against the steady state."""
    Bench(1, 1).call("mixflow")  # torch's own imports
    found: dict[str, Any] = {}
    for blocks in (2, 16):
        segment_graphs._cache.clear()
        found[f"trace, {blocks} blocks"] = traced_seconds(Bench(blocks, 2))
    segment_graphs._cache.clear()
    bench = Bench(2, 2)
    seconds = []
    for _ in range(12):
        begun = time.process_time()
        bench.call("mixflow")
        seconds.append(time.process_time() - begun)
    found["second call / steady state"] = seconds[1] / statistics.median(seconds[2:])
    return [
        *(Check(f"seconds of tracing, {blocks} blocks", found[f"trace, {blocks} blocks"], 3.0) for blocks in (2, 16)),
        Check("second call / steady state", found["second call / steady state"], 1.03),
    ], found


def exactness() -> list[Check]:
    """Return how far the variants are from `unrolled`, in float32."""
    bench = Bench(2, 4)
    expected = bench.call("unrolled").meta
    far = [
        float(tree.norm(tree.subtract(bench.call(name).meta, expected)) / tree.norm(expected))
        for name in ("mixflow", "mixflow, recompute", "mixflow, no block_remat")
    ]
    return [Check("largest difference from unrolled, float32", max(far), 1e-5)]


def main() -> int:
    """Print the tables; return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="memory and arithmetic alone, at T = 2 and 8")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of timing")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--keep-going", action="store_true", help="exit with 0 whatever fails")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    console = Console(width=120)
    checks = exactness()
    parts: list[Callable[[], tuple[list[Check], dict[str, Any]]]] = [arithmetic, lambda: memory(chosen.quick)]
    measured: dict[str, Any] = {}
    for name, part in zip(("flops", "dynamic_bytes"), parts, strict=True):
        found, measured[name] = part()
        checks += found
    if not chosen.quick:
        found, measured["trace"] = tracing()
        checks += found
        found, measured["seconds"] = times(chosen.rounds, not chosen.no_compile, measured["flops"])
        checks += found
    table = Table(title="mixed mode against its floors")
    for column in ("number", "value", "wanted", ""):
        table.add_column(column, justify="left" if column == "number" else "right")
    for check in checks:
        sign = ">=" if check.at_least else "<="
        table.add_row(check.name, f"{check.value:.3g}", f"{sign} {check.bound:.3g}", "ok" if check.holds else "FAILS")
    console.print(table)
    sizes = Table(title="dynamic memory, MiB")
    for column in ("", "MiB"):
        sizes.add_column(column)
    for name, size in measured["dynamic_bytes"].items():
        sizes.add_row(name, f"{size / 2**20:.1f}")
    console.print(sizes)
    values = {check.name: check.value for check in checks}
    print(json.dumps({"checks": values, "failed": [check.name for check in checks if not check.holds], **measured}))
    return int(any(not check.holds for check in checks) and not chosen.keep_going)


if __name__ == "__main__":
    restart_with(PORTABLE)
    sys.exit(main())
