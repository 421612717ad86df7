"""Timing the cells of a group: each part of it in processes of its own, with one seed, in rounds."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.measure.kernels import choose_kernels
from metabench.measure.own_device import own_device
from metabench.results.store import read_rows
from metabench.results.times import Line
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.groups import Group
from metabench.suite.rounds.member import WORKER, Member, ask
from metabench.suite.rounds.parts import parts, room
from metabench.suite.rounds.turns import not_timed, take_turns
from metabench.suite.run.processes import stopping_signals

Peaks = Mapping[str, Mapping[int, int]]


def time_group(
    group: Group,
    progress: Progress,
    granted_bytes: int | None = None,
    worker: Sequence[str] = WORKER,
    prepared: Path | None = None,
) -> list[Line]:
    """Return the lines of a group: one per cell and round, and one for each cell that could not be timed, or no further.

    Cells and seeds without a measured memory take no part: their rows say why. On a GPU the group has one
    device, the same for all. `granted_bytes` is what the job may use; None for any.
    `prepared` is the folder of what is prepared for the suite.

    Raises:
        MetabenchError: a row file is missing or cannot be read.
        SystemExit: SIGINT, SIGTERM or SIGHUP reached this process; those of the cells are killed.
    """
    files = dict(zip((cell.hash for cell in group.cells), group.row_files, strict=True))
    peaks = {name: _peaks(path) for name, path in files.items()}
    cells = [cell for cell in group.cells if peaks[cell.hash]]
    if not cells:
        return []
    choose_kernels(cells[0].kernels)
    # Before torch asks for devices, here and in the members.
    with own_device(cells[0].device, lambda words: print(f"{group.name}: {words}", file=sys.stderr)):
        return _timed(group, cells, peaks, progress, granted_bytes, worker, prepared)


def _timed(
    group: Group,
    cells: Sequence[Cell],
    peaks: Peaks,
    progress: Progress,
    granted_bytes: int | None,
    worker: Sequence[str],
    prepared: Path | None,
) -> list[Line]:
    together = parts(
        cells,
        {name: max(found.values()) for name, found in peaks.items() if found},
        group.baseline,
        *room(cells[0].device, granted_bytes),
    )
    lines: list[Line] = []
    for number, part in enumerate(together):
        named = {"group": group.name, "part": number}
        with stopping_signals() as unblocked:
            members: list[Member] = []
            try:
                for cell in part:
                    members.append(Member(cell, worker))
                with unblocked():
                    lines += (named | line for line in _time_part(group, number, members, peaks, progress, prepared))
            finally:
                for member in members:
                    member.end()
    return lines


def lost_group(group: Group, reason: str) -> list[Line]:
    """Return a line for each cell and seed of a group whose job was lost."""
    named = {"group": group.name, "part": 0}
    return [
        named | {"cell": cell.hash, "seed": seed} | not_timed(reason) for cell in group.cells for seed in cell.seeds
    ]


def _peaks(path: Path) -> dict[int, int]:
    """Return the bytes of one hypergradient by seed, of the seeds whose memory was measured."""
    try:
        rows = read_rows(path).select(["seed", "peak_bytes"]).to_pylist()
    except MetabenchError as error:
        raise MetabenchError(f"its cells are timed after their rows are written: {error}") from error
    return {row["seed"]: row["peak_bytes"] for row in rows if row["peak_bytes"] is not None}


def _time_part(
    group: Group, part: int, members: Sequence[Member], peaks: Peaks, progress: Progress, prepared: Path | None
) -> Iterator[Line]:
    first = members[0].cell
    # Only turns are timed: before them as many may work as there are cores.
    at_once = max(1, len(_cores()) // first.threads)
    progress("starting", 0, 1)
    request = {"open": True, "prepared": str(prepared or "")}
    for member, answer in zip(members, ask(members, request, at_once), strict=True):
        member.fault = answer.get("failed", "")
    # One seed: what a call takes is a matter of shapes, and each further seed would have to be brought to its checkpoint by all.
    seed = max(first.seeds, key=lambda one: sum(one in peaks[member.cell.hash] for member in members))
    ready = [member for member in members if seed in peaks[member.cell.hash] and not member.fault]
    progress(f"seed {seed}: preparing", 0, 1)
    for member, answer in zip(ready, ask(ready, {"prepare": seed}, at_once), strict=True):
        member.fault = answer.get("failed", "")
    for member in members:
        fault = member.fault if seed in peaks[member.cell.hash] else f"seed {seed}, which the others are timed with, has no measured memory"
        if fault:
            yield {"cell": member.cell.hash, "seed": seed, "process": member.pid} | not_timed(fault)
    ready = [member for member in ready if not member.fault]
    progress(f"seed {seed}: rounds", 0, 1)
    for member, line in take_turns(
        ready,
        lambda member, core: ask([member], {"turn": core}, 1)[0],
        time.monotonic,
        rounds=group.rounds,
        budget_s=first.measure["time_budget"] * len(ready),
        order=random.Random(f"{group.name} {part}"),
        # The threads of a pool that is there already would stay where they are, and elsewhere the system offers no choice.
        cores=_cores() if first.threads == 1 and first.device == "cpu" and hasattr(os, "sched_setaffinity") else (),
    ):
        yield {"cell": member.cell.hash, "seed": seed, "process": member.pid} | line


def _cores() -> Sequence[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
