"""What EvoGrad saves against T1-T2 on Meta-Weight-Net with ResNet-32, and what its own time is made of.

    python benchmarks/evograd.py                          # widths 1 and 2, batches of 100: some minutes, 2.5 GB
    python benchmarks/evograd.py --size resnet8 --rounds 5

Images of CIFAR's shape, drawn at random: what is measured does not depend on them. Memory is the peak of one hypergradient as the suite
measures it, on the kernels that it has. Times are the processor's, on one thread, the median of rounds in which all calls take
turns; `again` is T1-T2 a second time, the noise floor. Operations are counted in forward passes of the inner loss. Goals: memory 1.7
and time 1.4 times as much for T1-T2; of EvoGrad's time at most 5 % outside its losses and their gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from counted_flops import flop_counter
from restart import restart_with
from rich.console import Console
from rich.table import Table

from metabench.autodiff.gradients import gradients, inner_gradient, outer_gradient
from metabench.core import InnerState, Problem, Tree, Window, tree
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.data.contract import Classification
from metabench.measure.kernels import PORTABLE
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method
from metabench.problems import problem

SIZES = ("resnet32", "resnet32x2")
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "t1t2": ("t1t2", {}),
    "again": ("t1t2", {}),
    "evograd, 2 copies": ("evograd", {}),
    "evograd, 2 copies together": ("evograd", {"together": True}),
}
COPIES = 2
EXAMPLES = 300


def make(size: str, batch: int) -> Problem:
    """Return the problem in float32 on the CPU, at the settings of the paper."""
    stream = np.random.default_rng(0)
    images, labels = stream.random((EXAMPLES, 3, 32, 32), dtype=np.float32), np.arange(EXAMPLES) % 10
    found = Classification(images, labels, images[:100], labels[:100], tuple("0123456789"))
    kind = problem("label_noise")
    options = {"train": 200, "validation": 100, "batch": batch, "optimiser": "nesterov", "learning_rate": 0.1}
    chosen = build(kind.card.options, options, "problem 'label_noise'")
    return kind(Setting(size, chosen, 1, 0, torch.device("cpu"), torch.float32, found))


def parts(made: Problem, state: InnerState, meta: Tree, window: Window) -> None:
    """Compute what EvoGrad cannot do without: the copies' losses with their slopes in l, and the outer and the inner gradient."""
    (due,) = window.outer
    for _ in range(COPIES):
        leaves = tree.leaves_for_grad(meta)
        with torch.enable_grad():
            gradients(made.inner_loss(state.params, leaves, window.inner[0]), [leaves])
    outer_gradient(made, state.params, meta, due or {})
    inner_gradient(made, state.params, meta, window.inner[0])


def measure(size: str, batch: int, rounds: int) -> Table:
    """Return the table of a size."""
    made = make(size, batch)
    state, meta = made.initial_state()
    window = next(made.window_lists())[0]
    calls: dict[str, Callable[[], object]] = {
        row: _called(name, options, made, state, meta, window) for row, (name, options) in ROWS.items()
    }
    calls["parts"] = lambda: parts(made, state, meta, window)
    arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
    with flop_counter() as counted, torch.no_grad():
        made.inner_loss(state.params, meta, window.inner[0])
    forward = counted.get_total_flops()
    taken: dict[str, int] = {}
    passes: dict[str, float] = {}
    for row, call in calls.items():
        taken[row] = measure_memory(call, arguments, "cpu")[1].peak_bytes
        with flop_counter() as counted:
            call()
        passes[row] = counted.get_total_flops() / forward
    times: dict[str, list[float]] = {row: [] for row in calls}
    for _ in range(rounds):
        for row, call in calls.items():
            begun = time.process_time()
            call()
            times[row].append(time.process_time() - begun)
    table = Table("", "MiB", "t1t2 / it", "seconds", "t1t2 / it", "forward passes", title=f"{size}, batches of {batch}")
    for row in calls:
        ratios = [other / one for other, one in zip(times["t1t2"], times[row], strict=True)]
        table.add_row(
            row,
            f"{taken[row] / 2**20:.0f}",
            f"{taken['t1t2'] / taken[row]:.2f}",
            f"{statistics.median(times[row]):.3f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{passes[row]:.2f}",
        )
    outside = [1 - part / whole for part, whole in zip(times["parts"], times["evograd, 2 copies"], strict=True)]
    table.caption = f"of EvoGrad's time outside its losses and gradients: {100 * statistics.median(outside):.1f} %"
    return table


def _called(
    name: str, options: dict[str, Any], made: Problem, state: InnerState, meta: Tree, window: Window
) -> Callable[[], object]:
    chosen = method(name)
    typed = build(chosen.options, options, f"method '{name}'")
    return lambda: chosen(made, state, meta, window, typed, torch.Generator().manual_seed(0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    restart_with(PORTABLE)
    torch.set_num_threads(1)
    for size in given.size or SIZES:
        Console(width=120).print(measure(size, given.batch, given.rounds))


if __name__ == "__main__":
    main()
