"""What the methods cost beside each other and beside other libraries: tables, checks, and one last line of JSON.

    python benchmarks/methods.py                    # batches of 256 and 4096, about five minutes on two cores
    python benchmarks/methods.py --quick            # batches of 256 alone, about one minute
    python benchmarks/methods.py --steps 50 --batch 64 --batch 512

One hypergradient of a multilayer perceptron 784-512-512-10 on Fashion-MNIST, K inner steps of SGD, six meta-parameters: a log l2
penalty for each parameter tensor. Peak memory is the allocator's live bytes. Times are the processor's, on one thread, medians of rounds
over all methods, so that what else runs on the machine hits all alike; from batches of 1024 on, those that no check compares are timed
once, while their memory is measured. A method that is not there, or whose library is not installed, is named and left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from restart import restart_with
from rich.console import Console
from rich.table import Table

from metabench import data
from metabench.autodiff.inner import detached
from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import (
    Hypergradient,
    InnerState,
    MetabenchError,
    MetaRole,
    Metric,
    Problem,
    ProblemCard,
    Tree,
    Unsupported,
    Window,
    once,
)
from metabench.core.method import Method, NoOptions
from metabench.core.options import build
from metabench.core.problem import OuterOptimiser, Setting
from metabench.core.randomness import generator
from metabench.measure.kernels import PORTABLE
from metabench.measure.memory.meter import measure_memory
from metabench.methods import methods

Entry: TypeAlias = tuple[str, dict[str, Any]]

PEERS = ("higher_unrolled", "torchopt_unrolled")
ENTRIES: tuple[Entry, ...] = (
    ("none", {}),
    ("unrolled", {}),
    ("higher_unrolled", {}),
    ("torchopt_unrolled", {}),
    ("unrolled_remat", {"schedule": "every"}),
    ("unrolled_remat", {"schedule": "sqrt"}),
    ("unrolled_remat", {"schedule": "binomial"}),
    ("mixflow", {}),
    ("forward", {}),
    ("truncated", {}),
    ("t1t2", {}),
    ("darts", {}),
    ("sama", {}),
    ("evograd", {}),
    ("ift_cg", {"steps": 10}),
    ("torchopt_ift_cg", {"steps": 10}),
    ("ift_neumann", {"steps": 10}),
    ("ift_nystrom", {"rank": 10}),
    ("ift_fixed_point", {"steps": 10}),
)
CONTENDERS = ("unrolled", *PEERS, "t1t2", "evograd")
"""Those that the checks hold beside each other: they are timed in rounds at every batch."""
AT_LARGE_BATCHES = (*CONTENDERS, "none", "mixflow", "darts", "ift_cg", "torchopt_ift_cg")
LARGE = 1024
FLAT_IN_STEPS = (
    "forward",
    "t1t2",
    "evograd",
    "ift_cg",
    "torchopt_ift_cg",
    "ift_neumann",
    "ift_nystrom",
    "ift_fixed_point",
)
FLAT_IN_SOLVER = ("ift_cg", "torchopt_ift_cg", "ift_neumann", "ift_fixed_point")
MIB = 2**20


class Perceptron(Problem):
    """Train a multilayer perceptron with a learned l2 penalty for each parameter tensor."""

    card = ProblemCard(
        "penalties of a perceptron", ("fashion_mnist_10k",), {"mlp": ""}, (Metric("loss", "min"),), "", NoOptions, 20, 1
    )
    roles = frozenset({MetaRole.INNER_LOSS})
    outer_optimiser = OuterOptimiser("SGD", learning_rate=0.1)
    widths = (784, 512, 512, 10)

    def __init__(self, batch: int, inner_steps: int) -> None:
        cpu, images = torch.device("cpu"), data.load("fashion_mnist_10k")
        super().__init__(Setting("mlp", NoOptions(), inner_steps, 0, cpu, torch.float32, images))
        self.batch = batch
        self.optimiser = inner_optimiser("sgd", 0.1)
        inputs, targets = torch.as_tensor(images.train_inputs).flatten(1), torch.as_tensor(images.train_targets)
        self._train = {"inputs": inputs[:8000], "targets": targets[:8000]}
        self._validation = {"inputs": inputs[8000:], "targets": targets[8000:]}

    def initial(self) -> Tree:
        """Return penalties of exp(-9)."""
        return {name: torch.tensor(-9.0) for name in self._drawn()}

    def _drawn(self) -> Tree:
        """Return weights by He's rule."""
        stream, params = generator(0, "initial"), {}
        for layer, (wide, out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            params[f"{layer}.weight"] = torch.randn(wide, out, generator=stream) * (2 / wide) ** 0.5
            params[f"{layer}.bias"] = torch.zeros(out)
        return params

    def inner_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        """Return the penalised cross-entropy."""
        penalties = [meta[name].exp() * leaf.square().sum() for name, leaf in params.items()]
        return self.outer_loss(params, meta, batch) + torch.stack(penalties).sum()

    def outer_loss(self, params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        """Return the cross-entropy."""
        values, last = batch["inputs"], len(self.widths) - 2
        for layer in range(last + 1):
            values = torch.addmm(params[f"{layer}.bias"], values, params[f"{layer}.weight"])
            values = values.relu() if layer < last else values
        return torch.nn.functional.cross_entropy(values, batch["targets"])

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield windows of batches drawn from the training part."""
        stream = generator(0, "batches")
        for begins in once(self._drawn()):
            chosen = [torch.randperm(8000, generator=stream)[: self.batch] for _ in range(self.setting.inner_steps)]
            inner = tuple({name: leaf[index] for name, leaf in self._train.items()} for index in chosen)
            outer = {name: leaf[: self.batch] for name, leaf in self._validation.items()}
            yield [Window.ending_in(inner, outer, begins)]

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float]:
        """Return the validation loss."""
        return {"loss": float(self.outer_loss(params, meta, self._validation))}


class Case:
    """One hypergradient, ready to be called: a method with its options at a point of the problem."""

    def __init__(self, chosen: Method, options: dict[str, Any], problem: Perceptron) -> None:
        self.chosen, self.problem = chosen, problem
        self.options = build(chosen.options, options, f"method '{chosen.name}'")
        state, self.meta = problem.initial_state()
        self.state: InnerState = detached(state)
        self.window = next(iter(problem.windows()))[0]

    def __call__(self) -> Hypergradient:
        stream = generator(0, "benchmark")
        return self.chosen(self.problem, self.state, self.meta, self.window, self.options, stream)

    def peak(self) -> int:
        """Return the bytes at the call's peak, its arguments counted in."""
        arguments = [self.state.params, self.meta, self.window.inner, self.window.outer]
        return measure_memory(self, arguments, "cpu")[1].peak_bytes

    def seconds(self) -> float:
        """Return the seconds that a call takes, Python's cyclic collector off."""
        gc.collect()
        gc.disable()
        try:
            return timed(self)[1]
        finally:
            gc.enable()


class Cost(NamedTuple):
    """What a hypergradient takes: the median and the least of the timed runs, and the allocator's peak."""

    seconds: float
    quickest: float
    peak_bytes: int


class Report:
    """What is printed, and the figures of the last line."""

    def __init__(self) -> None:
        self.console = Console(width=120)
        self.figures: dict[str, float | bool] = {}

    def check(self, name: str, value: float, holds: bool, wanted: str) -> None:
        """Print a check, PASS or miss, and keep it."""
        self.figures[f"check {name}"] = holds
        self.figures[f"value {name}"] = value
        self.say(f"{'PASS' if holds else 'miss'}  {name}: {value:.3f} (wanted: {wanted})")

    def skip(self, what: str, why: str) -> None:
        """Print what is left out, and why."""
        self.say(f"skip  {what}: {why}")

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def label(name: str, options: dict[str, Any]) -> str:
    """Return 'name' or 'name key=value'."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def case(name: str, options: dict[str, Any], problem: Perceptron, report: Report) -> Case | None:
    """Return a case, or say why there is none."""
    if name not in methods():
        return report.skip(label(name, options), "there is no such method")
    try:
        return Case(methods()[name], options, problem)
    except MetabenchError as error:
        return report.skip(label(name, options), str(error))


def compare(batch: int, steps: int, chosen: Sequence[Entry], repeats: int, report: Report) -> dict[str, Cost]:
    """Measure the chosen entries, print the table, and return what each takes by its label.

    Where batches are large a call takes long: the contenders alone are timed apart, the others while their memory is measured.
    """
    problem = Perceptron(batch, steps)
    large = batch > LARGE
    cases: dict[str, Case] = {}
    peaks: dict[str, int] = {}
    rounds: dict[str, list[float]] = {}
    for name, options in chosen:
        one = case(name, options, problem, report)
        if one is None:
            continue
        try:
            # The first call of a method imports and traces: it is neither timed nor measured.
            if not large:
                one()
            peak, taken = timed(one.peak)
        except Unsupported as error:
            report.skip(label(name, options), str(error))
            continue
        title = label(name, options)
        cases[title], peaks[title] = one, peak
        rounds[title] = [taken] if large and name not in CONTENDERS else []
    contending = {title: one for title, one in cases.items() if not rounds[title]}
    for turn in range(repeats):
        # Every other round backwards: what grows hot or slow in a round falls on all alike.
        for title in list(contending) if turn % 2 == 0 else reversed(contending):
            rounds[title].append(contending[title].seconds())
    found = {title: Cost(statistics.median(rounds[title]), min(rounds[title]), peaks[title]) for title in cases}
    table = Table("method", title=f"K={steps} SGD steps, 784-512-512-10, batch {batch}, one thread")
    for heading in ("runs", "seconds", "quickest", "x unrolled", "peak MiB", "x unrolled"):
        table.add_column(heading, justify="right")
    base = found["unrolled"]
    for title, cost in found.items():
        time_ratio, memory_ratio = f"{cost.seconds / base.seconds:.2f}", f"{cost.peak_bytes / base.peak_bytes:.3f}"
        seconds, quickest = f"{cost.seconds:.3f}", f"{cost.quickest:.3f}"
        table.add_row(
            title, str(len(rounds[title])), seconds, quickest, time_ratio, f"{cost.peak_bytes / MIB:,.1f}", memory_ratio
        )
        report.figures |= {
            f"batch {batch} {title} seconds": cost.seconds,
            f"batch {batch} {title} quickest": cost.quickest,
        }
        report.figures[f"batch {batch} {title} peak_bytes"] = cost.peak_bytes
    report.console.print(table)
    return found


def checks(batch: int, found: dict[str, Cost], report: Report) -> None:
    """Hold `unrolled` beside the other libraries, and `evograd` beside `t1t2`."""
    peers = [found[name] for name in PEERS if name in found]
    ours, where = found["unrolled"], f"at batch {batch}"
    if peers:
        speed = min(peer.seconds for peer in peers) / ours.seconds
        report.check(f"speed of unrolled over the fastest peer's, {where}", speed, speed >= 0.95, ">= 0.95")
        share = ours.peak_bytes / min(peer.peak_bytes for peer in peers)
        report.check(f"peak memory of unrolled over the leanest peer's, {where}", share, share <= 1, "<= 1")
    else:
        report.skip("peers", "no other library is installed: pip install 'metabench[peers]'")
    if {"evograd", "t1t2"} <= found.keys():
        ratio = found["evograd"].seconds / found["t1t2"].seconds
        report.check(f"time of evograd over t1t2's, {where}", ratio, ratio < 1, "< 1")
        ratio = found["evograd"].peak_bytes / found["t1t2"].peak_bytes
        report.check(f"peak memory of evograd over t1t2's, {where}", ratio, ratio < 1, "< 1")


def flatness(batch: int, steps: int, report: Report) -> None:
    """Peak memory less the window's batches, where theory says that it does not grow, and nystrom's at three ranks."""

    def working(name: str, options: dict[str, Any], inner_steps: int) -> float | None:
        one = case(name, options, Perceptron(batch, inner_steps), report)
        if one is None:
            return None
        try:
            peak = one.peak()
        except Unsupported as error:
            return report.skip(label(name, options), str(error))
        return peak - sum(leaf.nbytes for inner in one.window.inner for leaf in inner.values())

    def hold(what: str, low: float | None, high: float | None) -> None:
        if low is not None and high is not None:
            report.figures |= {f"{what}: bytes before": low, f"{what}: bytes after": high}
            report.check(f"peak memory of {what}", high / low, high <= 1.02 * low, "<= 1.02")

    present = methods()
    # One step alone has no step before the one that is differentiated.
    few = max(2, steps // 4)
    for name in FLAT_IN_STEPS:
        if name in present:
            hold(f"{name}, K={steps} over K={few}", working(name, {}, few), working(name, {}, steps))
    for name in FLAT_IN_SOLVER:
        if name in present:
            low, high = (working(name, {"steps": number}, few) for number in (5, 20))
            hold(f"{name}, 20 solver steps over 5", low, high)
    if "ift_nystrom" in present:
        for rank in (5, 10, 20):
            used = working("ift_nystrom", {"rank": rank}, few)
            if used is not None:
                report.figures[f"ift_nystrom rank={rank} bytes"] = used
                report.say(f"      peak memory of ift_nystrom at rank {rank}: {used / MIB:,.1f} MiB")


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns and the processor's seconds that it took. On one thread they are those of the clock, less waiting."""
    begun = time.process_time()
    return call(), time.process_time() - begun


def main() -> None:
    """Measure, print the tables and the checks, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batches of 256 alone")
    parser.add_argument("--steps", type=int, default=20, help="K, the inner steps (20)")
    parser.add_argument(
        "--batch", type=int, action="append", help="examples in a batch, at most 8000; may be given again"
    )
    parser.add_argument("--repeats", type=int, help=f"timed rounds (5 up to a batch of {LARGE}, else 3)")
    parser.add_argument(
        "--all", action="store_true", help="every method at every batch, not the shorter list where batches are large"
    )
    chosen = parser.parse_args()
    batches = chosen.batch or ([256] if chosen.quick else [256, 4096])
    if chosen.steps < 1 or not all(1 <= batch <= 8000 for batch in batches):
        parser.error("--steps takes a positive number, --batch one from 1 to 8000")
    torch.set_num_threads(1)
    report = Report()
    begun = time.monotonic()
    for batch in sorted(batches):
        entries = (
            ENTRIES if chosen.all or batch <= LARGE else [entry for entry in ENTRIES if entry[0] in AT_LARGE_BATCHES]
        )
        checks(
            batch, compare(batch, chosen.steps, entries, chosen.repeats or (5 if batch <= LARGE else 3), report), report
        )
    flatness(min(batches), chosen.steps, report)
    report.figures["whole_s"] = time.monotonic() - begun
    report.say(f"      {report.figures['whole_s']:.0f} s in all")
    print(json.dumps(report.figures))


if __name__ == "__main__":
    restart_with(PORTABLE)
    main()
