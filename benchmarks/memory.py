"""Is the memory meter exact? Its bytes beside those of torch's public profiler, program by program, and one last line of JSON.

    python benchmarks/memory.py                              # every program, about half a minute
    python benchmarks/memory.py --only convolutions_float64 --only mixflow_of_label_noise
    python benchmarks/memory.py --repeats 10

The meter (`metabench.measure.memory.meter`) sums the allocator's events itself, block by block. The reference is what the profiler
exports: the allocator's own running total, `Total Allocated` in the trace. Both must agree within 1 %, every run must take the same
bytes, and a measured call must return the very bits of an unmeasured one; otherwise the exit status is 1.

A second meter, the storages that the dispatcher sees, shows why the allocator is the definition. It leaves out what kernels allocate
inside, and it changes the program: under a dispatch mode the autograd engine adds gradients out of place. Both stand in the table, the
allocator being measured once more while the storages are watched. Then the storages can never be more than the allocator's bytes, or the
exit status is 1.

Where a GPU is at hand the same programs run there, too, beside torch.cuda.max_memory_allocated less what was allocated before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measured_programs import PROGRAMS, Place, Program
from restart import restart_with
from rich.console import Console
from rich.table import Table
from storage_meter import StorageMeter
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from metabench.core import MetabenchError
from metabench.core.registry import pick
from metabench.measure.kernels import PORTABLE
from metabench.measure.memory.meter import measure_memory

TOLERANCE = 0.01


class Found(NamedTuple):
    """What was found of one program on one device; all bytes but the arguments' are dynamic, at the peak."""

    static_bytes: int
    meter_bytes: tuple[int, ...]
    """Of every run."""
    reference_bytes: int
    storage_bytes: int
    """What the dispatcher sees."""
    watched_bytes: int
    """The meter's, of the run in which the storages were watched."""
    repeatable: bool
    """Whether two runs without any meter return the same bits."""
    unchanged: bool
    """Whether every measured run returns the bits of the first run without a meter."""

    @property
    def ratio(self) -> float:
        """The meter's largest bytes over the reference's."""
        most = max(self.meter_bytes)
        if self.reference_bytes == 0:
            return 1.0 if most == 0 else float("inf")
        return most / self.reference_bytes

    @property
    def agrees(self) -> bool:
        """Whether every run is within the tolerance of the reference."""
        worst = max(abs(run - self.reference_bytes) for run in self.meter_bytes)
        return worst <= TOLERANCE * self.reference_bytes

    @property
    def steady(self) -> bool:
        """Whether every run took the same bytes."""
        return len(set(self.meter_bytes)) == 1

    @property
    def storages_within(self) -> bool:
        """Whether the storages are no more than the allocator gave out in the same run."""
        return self.storage_bytes <= self.watched_bytes

    @property
    def harmless(self) -> bool:
        """Whether measuring left the result as it is; nothing is held against the meter where the program itself varies."""
        return self.unchanged or not self.repeatable


def measure(program: Program, device: torch.device, repeats: int) -> Found:
    """Measure one program by the meter, by its reference and by the storages of the dispatcher.

    The first runs are not measured: they trace, and make what is made once a process.
    """
    call, arguments = program
    plain = call()
    repeatable = same_bits(plain, call())
    runs, unchanged = [], True
    for _ in range(repeats):
        result, memory = measure_memory(call, arguments, device)
        runs.append(memory.dynamic_bytes)
        unchanged &= same_bits(plain, result)
        # Were it released while the next run is measured, the bytes from before would mingle with that run's.
        del result
    reference = cuda_peak if device.type == "cuda" else profiled_peak
    expected = reference(call)
    storages: list[int] = []

    def watched() -> Any:
        with StorageMeter(device) as meter:
            result = call()
        storages.append(meter.peak_bytes)
        return result

    # What torch sets up once for operations under a dispatch mode may hold on to a tensor.
    watched()
    under_mode = measure_memory(watched, arguments, device)[1].dynamic_bytes
    return Found(memory.static_bytes, tuple(runs), expected, storages[-1], under_mode, repeatable, unchanged)


def profiled_peak(call: Callable[[], Any]) -> int:
    """Return the peak of a call on the CPU, from the trace that torch's public profiler exports.

    `Total Allocated` is the allocator's own running total after each event; what stood before the first event is taken off.
    """
    with uncollected(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    # Device type 0 is the CPU.
    ours = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    if not ours:
        return 0
    first = min(ours, key=lambda event: event["ts"])["args"]
    before: int = first["Total Allocated"] - first["Bytes"]
    highest: int = max(event["args"]["Total Allocated"] for event in ours)
    return max(0, highest - before)


def cuda_peak(call: Callable[[], Any]) -> int:
    """Return the peak of a call on the current CUDA device by the allocator's own statistics."""
    with uncollected():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        peak: int = torch.cuda.max_memory_allocated() - before
    del result
    return peak


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect cyclic garbage, then keep the collector off: the bytes must not depend on when it runs."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two results hold the same tensors, bit by bit: a NaN equals itself, and 0 is not -0."""
    ones, others = tree_leaves(one), tree_leaves(other)
    return len(ones) == len(others) and all(
        left.dtype == right.dtype and left.shape == right.shape and torch.equal(_bits(left), _bits(right))
        for left, right in zip(ones, others, strict=True)
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8)


def survey(
    programs: Mapping[str, Callable[[Place], Program]], place: Place, repeats: int, say: Callable[[str], None]
) -> dict[str, Found]:
    """Measure the programs one after another, and return what was found by name."""
    found = {}
    for name, make in programs.items():
        say(f"{place.device}: {name}")
        found[name] = measure(make(place), place.device, repeats)
    return found


def bytes_table(found: Mapping[str, Found], place: Place) -> Table:
    """Return the table of the meter beside its reference, and of the storages.

    Inside kernels: the share of the allocator's peak that no storage accounts for. By watching: by how much the dispatch mode moves
    the allocator's peak.
    """
    reference = "max_memory_allocated" if place.device.type == "cuda" else "profiler"
    table = Table("program", title=f"Dynamic bytes at the peak on {place.device}, {place.batch} examples")
    headings = ("arguments", "meter", reference, "ratio", "within 1 %", "storages", "inside kernels", "by watching")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, one in found.items():
        most = max(one.meter_bytes)
        bytes_of = [f"{value:,}" for value in (one.static_bytes, most, one.reference_bytes)]
        inside, watching = one.watched_bytes - one.storage_bytes, one.watched_bytes - most
        verdict = "PASS" if one.agrees else "miss"
        shares = (_share(inside, one.watched_bytes), _share(watching, most))
        table.add_row(name, *bytes_of, f"{one.ratio:.6f}", verdict, f"{one.storage_bytes:,}", *shares)
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:+.1%}" if part and whole else "0"


def runs_table(found: Mapping[str, Found], place: Place) -> Table:
    """Return the table of the bytes at every run, and of whether a measured call returns what it returns unmeasured."""
    table = Table(
        "program", "runs", "bytes", "the same at every run", "result, bit by bit", title=f"Runs on {place.device}"
    )
    for name, one in found.items():
        distinct = sorted(set(one.meter_bytes))
        span = f"{distinct[0]:,}" if one.steady else f"{distinct[0]:,} to {distinct[-1]:,}"
        result = "PASS" if one.unchanged else "miss" if one.repeatable else "varies unmeasured, too"
        table.add_row(name, str(len(one.meter_bytes)), span, "PASS" if one.steady else "miss", result)
    return table


def figures(found: Mapping[str, Found], place: Place) -> dict[str, float | int | bool]:
    """Return the figures of the last line, and the checks over all programs of a device."""
    device = place.device.type
    line: dict[str, float | int | bool] = {}
    for name, one in found.items():
        line |= {
            f"{device} {name} static_bytes": one.static_bytes,
            f"{device} {name} meter_bytes": max(one.meter_bytes),
            f"{device} {name} reference_bytes": one.reference_bytes,
            f"{device} {name} storage_bytes": one.storage_bytes,
            f"{device} {name} watched_bytes": one.watched_bytes,
            f"{device} {name} ratio": one.ratio,
        }
    return line | {
        f"{device} programs": len(found),
        f"{device} largest deviation": max(abs(one.ratio - 1) for one in found.values()),
        f"check {device} within 1 %": all(one.agrees for one in found.values()),
        f"check {device} same bytes at every run": all(one.steady for one in found.values()),
        f"check {device} result unchanged": all(one.harmless for one in found.values()),
        f"check {device} storages within the allocator's bytes": all(one.storages_within for one in found.values()),
    }


def main() -> int:
    """Measure, print the tables and the checks, end with one line of JSON, and return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each program (3)")
    parser.add_argument("--only", action="append", metavar="NAME", help="one program; may be given again")
    parser.add_argument("--batch", type=int, default=32, help="examples that a program takes (32)")
    chosen = parser.parse_args()
    if chosen.repeats < 1 or chosen.batch < 2:
        parser.error("--repeats takes a positive number, --batch one from 2 on")
    try:
        programs = {name: pick("program", name, PROGRAMS) for name in chosen.only or PROGRAMS}
    except MetabenchError as error:
        parser.error(str(error))
    # Some kernels take memory per thread; and a single thread adds in one order.
    torch.set_num_threads(1)
    # Kineto writes about itself to stderr at every use, below this level.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # What the imports made is not garbage; to look through it takes most of a measurement's time.
    gc.freeze()
    console = Console(width=140)
    line: dict[str, float | int | bool] = {}
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            console.print("skip  cuda: there is no CUDA device at hand", highlight=False)
            continue
        place = Place(torch.device(device), chosen.batch)
        with console.status("") as status:
            found = survey(programs, place, chosen.repeats, status.update)
        console.print(bytes_table(found, place))
        console.print(runs_table(found, place))
        line |= figures(found, place)
    checks = {name: holds for name, holds in line.items() if name.startswith("check ")}
    for name, holds in checks.items():
        console.print(f"{'PASS' if holds else 'miss'}  {name.removeprefix('check ')}", highlight=False)
    print(json.dumps(line))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    restart_with(PORTABLE)
    sys.exit(main())
