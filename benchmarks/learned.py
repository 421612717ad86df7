"""What a hypergradient of a learned LSTM optimiser takes: dynamic MiB, and processor time over that of `unrolled`, beside the goals.

    python benchmarks/learned.py                   # the MLP at 28 x 28, K = 20, and quadratics: about three minutes
    python benchmarks/learned.py --only mlp --rounds 5

Times are the least of the rounds, in which all rows take turns. `by hand` is a loop written for this LSTM, without the package's engine:
what `unrolled` may take at most 1.1 times of.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from metabench import data
from metabench.core import InnerState, Problem, Tree, Window
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method
from metabench.problems import problem


class Goal(NamedTuple):
    """The most MiB, and the most time over that of `unrolled`; None where none is set."""

    mebibytes: float | None = None
    time: float | None = None


Rows = Mapping[str, tuple[str, dict[str, Any], Goal]]

MLP: Rows = {
    "unrolled": ("unrolled", {}, Goal()),
    "unrolled_remat": ("unrolled_remat", {}, Goal()),
    "unrolled_remat, sqrt": ("unrolled_remat", {"schedule": "sqrt"}, Goal()),
    "mixflow": ("mixflow", {}, Goal(108)),
    "mixflow, recompute": ("mixflow", {"trajectory": "recompute"}, Goal(48)),
    "first_order": ("first_order", {}, Goal(time=0.8)),
    "first_order, recompute": ("first_order", {"recompute": True}, Goal()),
    "none": ("none", {}, Goal(8)),
    "es, 1 pair": ("es", {"pairs": 1}, Goal(8)),
    "pes, 1 pair": ("pes", {"pairs": 1}, Goal()),
}
PAIRS: Rows = {
    "unrolled": ("unrolled", {}, Goal()),
    "pes, 16 pairs one by one": ("pes", {"pairs": 16, "together": 1}, Goal()),
    "pes, 16 pairs in one pass": ("pes", {"pairs": 16, "together": 16}, Goal()),
}
CASES: Mapping[str, tuple[str, str, int, dict[str, Any], Rows]] = {
    "mlp": ("learned_perceptron", "p28", 20, {"optimiser": "lstm"}, MLP),
    "quadratics": ("learned_quadratics", "d10", 100, {"tasks": 128}, MLP),
    "pairs": ("learned_quadratics", "d10", 20, {"tasks": 32}, PAIRS),
}


def make(name: str, size: str, steps: int, options: dict[str, Any]) -> Problem:
    """Return a problem in float32 on the CPU."""
    kind = problem(name)
    chosen = build(kind.card.options, options, f"problem '{name}'")
    found = None if kind.card.datasets[0] == "analytic" else data.load(kind.card.datasets[0])
    return kind(Setting(size, chosen, steps, 0, torch.device("cpu"), torch.float32, found))


def by_hand(problem: Problem, state: InnerState, meta: Tree, window: Window) -> list[torch.Tensor]:
    """Return the hypergradient by a plain loop."""
    meta = {name: leaf.detach().requires_grad_() for name, leaf in meta.items()}
    params = {name: leaf.detach().requires_grad_() for name, leaf in state.params.items()}
    slots, total = state.optimiser, torch.zeros(())
    for inner, outer in zip(window.inner, window.outer, strict=True):
        loss = problem.inner_loss(params, meta, inner)
        slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params, slots = problem.optimiser.update(dict(zip(params, slopes, strict=True)), params, slots, meta)
        total = total + problem.outer_loss(params, meta, outer or {})
    return list(torch.autograd.grad(total, list(meta.values())))


def measure(case: str, rounds: int) -> Table:
    """Return the table of a case."""
    name, size, steps, options, rows = CASES[case]
    made = make(name, size, steps, options)
    state, meta = made.initial_state()
    window = next(made.window_lists())[0]
    calls: dict[str, Callable[[], object]] = {"by hand": lambda: by_hand(made, state, meta, window)}
    for row, (of, chosen, _) in rows.items():
        calls[row] = called(of, chosen, made, state, meta, window)
    arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
    taken = {row: measure_memory(call, arguments, "cpu")[1].dynamic_bytes / 2**20 for row, call in calls.items()}
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for row, call in calls.items():
            begun = time.process_time()
            call()
            least[row] = min(least[row], time.process_time() - begun)
    table = Table("", "MiB", "goal", "time / unrolled", "goal", title=f"{name} {size}, lstm, K = {steps}")
    for row in calls:
        goal = rows[row][2] if row in rows and case == "mlp" else Goal()
        ratio = least[row] / least["unrolled"]
        table.add_row(row, f"{taken[row]:.1f}", shown(goal.mebibytes), f"{ratio:.2f}", shown(goal.time))
    table.caption = f"unrolled / by hand {least['unrolled'] / least['by hand']:.2f} (goal 1.1)"
    if "pes, 16 pairs in one pass" in least:
        ratio = least["pes, 16 pairs in one pass"] / least["pes, 16 pairs one by one"]
        table.caption += f"; 16 pairs of pes in one pass / one by one {ratio:.2f} (goal 0.5)"
    return table


def called(
    name: str, options: dict[str, Any], made: Problem, state: InnerState, meta: Tree, window: Window
) -> Callable[[], object]:
    """Return the call of a method."""
    chosen = method(name)
    typed = build(chosen.options, options, f"method '{name}'")
    return lambda: chosen(made, state, meta, window, typed, torch.Generator().manual_seed(0))


def shown(goal: float | None) -> str:
    """Return a goal, or nothing."""
    return "" if goal is None else f"<= {goal:g}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for case in given.only or CASES:
        Console(width=120).print(measure(case, given.rounds))


if __name__ == "__main__":
    main()
