"""What `metabench.hypergradient` adds to a method's time and memory: a table, and one last line of JSON.

    python benchmarks/library.py              # about two minutes
    python benchmarks/library.py --repeats 40

One hypergradient of the suite's MLP with one hidden layer of 64, K = 20, of `label_noise`, as the suite calls the method and as a user's
own loop does, in turn. Times are the processor's, on one thread; the ratio is that of
the medians.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from restart import restart_with
from rich.console import Console
from rich.table import Table

import metabench
from metabench import data
from metabench.core import Problem
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.measure.kernels import PORTABLE
from metabench.measure.memory.meter import measure_memory
from metabench.methods import methods
from metabench.problems import problem

METHODS = ("unrolled", "mixflow", "ift_cg")
MOST = 0.02
"""The share of a method's time that the library may add."""


def mlp() -> Problem:
    """Return `label_noise` with its smallest MLP and K = 20."""
    kind = problem("label_noise")
    options = build(kind.card.options, {}, "problem 'label_noise'")
    images = data.load("fashion_mnist_10k")
    return kind(Setting("mlp64", options, 20, 0, torch.device("cpu"), torch.float32, images))


def calls(name: str, of: Problem) -> tuple[Callable[[], Any], Callable[[], Any], Any]:
    """Return the suite's call, the library's, and the arguments of both."""
    chosen, window = methods()[name], next(of.windows())[0]
    state, meta = of.initial_state()
    options, stream = chosen.options(), generator(0, "benchmark")

    def in_the_suite() -> Any:
        return chosen(of, state, meta, window, options, stream)

    def in_a_loop() -> Any:
        return metabench.hypergradient(
            name,
            of.inner_loss,
            of.outer_loss,
            state.params,
            meta,
            window.inner,
            window.outer[-1],
            optimiser=of.optimiser,
            state=state,
            generator=stream,
            stops_gradients=of.stops_gradients,
        )

    return in_the_suite, in_a_loop, (state.params, state.optimiser, meta, window.inner, window.outer)


def measured(name: str, of: Problem, repeats: int) -> dict[str, Any]:
    """Return the times of both calls, measured in turn, and their peaks."""
    *both, arguments = calls(name, of)
    for call in both:
        call()
    peaks = [measure_memory(call, arguments, "cpu")[1].peak_bytes for call in both]
    seconds: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    for turn in range(repeats):
        # Each goes first half of the time: what the first leaves in the caches is there for the second.
        for which in (0, 1) if turn % 2 else (1, 0):
            begun = time.thread_time()
            both[which]()
            seconds[which].append(time.thread_time() - begun)
    gc.enable()
    suite, library = (statistics.median(each) for each in seconds)
    return {
        "method": name,
        "suite_ms": 1e3 * suite,
        "library_ms": 1e3 * library,
        "added": library / suite - 1,
        "suite_bytes": peaks[0],
        "library_bytes": peaks[1],
    }


def main() -> None:
    """Print the table, what is beyond the bars, and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="timed calls of each kind (200)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    of = mlp()
    rows = [measured(name, of, repeats) for name in METHODS]
    table = Table("method", "suite", "library", "added", "peak, suite", "peak, library")
    for row in rows:
        times = (f"{row['suite_ms']:.2f} ms", f"{row['library_ms']:.2f} ms", f"{100 * row['added']:+.2f} %")
        table.add_row(row["method"], *times, f"{row['suite_bytes']:,}", f"{row['library_bytes']:,}")
    Console(width=120).print(table)
    missed = [row["method"] for row in rows if row["added"] > MOST or row["library_bytes"] != row["suite_bytes"]]
    print(json.dumps({"rows": rows, "missed": missed}))
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    restart_with(PORTABLE)
    main()
