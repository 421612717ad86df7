"""Running a cell: for each seed, the stages of its kind of experiment, one after another.

Every failure becomes a row, which keeps what was measured before.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metabench.core.errors import MESSAGE_LENGTH, MetabenchError, TimeLimit, unknown
from metabench.core.kind import Kind
from metabench.core.lazy import torch
from metabench.core.types import Progress
from metabench.measure.clock import Stopwatch, deadline, pin_threads
from metabench.measure.device import measured_device
from metabench.measure.environment import environment
from metabench.measure.kernels import choose_kernels
from metabench.measure.memory.bound import memory_bound
from metabench.measure.outcome import outcome
from metabench.stages.subject import Subject
from metabench.stages.well_posed import SIZES
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.labels import kind_of, kind_options, load_data, method_of, method_options, problem_of
from metabench.suite.plan.preparations import folders_of
from metabench.suite.run.rows import base_row, failed_row
from metabench.training.checkpoint import Checkpoint
from metabench.training.kept import Keeper, kept_file

Row = dict[str, Any]

NET = 2
"""By how many times its memory limit a whole cell may grow. The memory pass enforces the limit itself to the byte; this safety net
lets a cell far past its limit end as a row, without affecting other processes."""

_CHECK_SHARE = 0.05
"""Share of a cell's time limit that checks of the exact hypergradient against plain training may take, all seeds together."""


_PLAIN = (bool, int, float, str, Mapping, type(None))


def run_cell(
    cell: Cell,
    progress: Progress,
    out: Path | None = None,
    prepared: Path | None = None,
    done: Mapping[int, Row] = MappingProxyType({}),
) -> Iterator[Row]:
    """Yield one finished row per seed. Failures of a seed are recorded in its row.

    `out` is where the rows will go: checkpoints of its runs are beside it, and the meta-parameters that they lead to. `prepared` is the
    folder of what is prepared for the suite. Seeds in `done` have their rows, from an attempt that was ended: they are left out, and the
    time that they took is the cell's.

    Raises MetabenchError if this process has loaded torch with other kernels than the cell's.
    """
    choose_kernels(cell.kernels)
    place = environment(cell.device)
    try:
        measured_device(cell.device)
    except MetabenchError as error:
        yield from (failed_row(cell, seed, "unsupported", str(error), place) for seed in cell.seeds)
        return
    pin_threads(cell.threads)
    loaded = load_data(cell)
    keeper = Keeper(kept_file(out), cell.to_json()) if out else None
    if keeper:
        keeper.begin(done)
    spent = sum(row.get("measured_s") or 0.0 for row in done.values())
    until = time.perf_counter() + cell.limit_seconds - spent
    for index, seed in enumerate(seed for seed in cell.seeds if seed not in done):
        left = until - time.perf_counter()
        if left <= 0:
            message = f"the cell's {cell.limit_seconds:g} s were spent by the seeds before this one"
            yield failed_row(cell, seed, "timeout", message, place)
            continue
        row = base_row(cell, seed, place) | {"message": ""}
        subject = subject_of(cell, seed, loaded, index == 0, progress, out, prepared)
        if keeper:
            keeper.row = dict(row)
            subject = dataclasses.replace(subject, keep=keeper.keep)
        try:
            with deadline(left), memory_bound(NET * cell.limit_bytes, torch.device(cell.device)):
                for columns in _measured(cell, subject):
                    _add(row, columns)
            row["status"] = "ok"
        except TimeLimit:
            row |= {"status": "timeout", "message": f"passed the cell's time limit of {cell.limit_seconds:g} s"}
        except MetabenchError as error:  # of the problem or the method: its words are for whoever wrote that
            row |= {"status": "error", "message": str(error)[:MESSAGE_LENGTH]}
        except Exception as error:  # every failure is a row: this is the one place that may catch everything
            status, message = outcome(error)
            row |= {"status": status, "message": message[:MESSAGE_LENGTH]}
        yield row
        # Whoever took the row has kept it.
        if subject.checkpoint:
            subject.checkpoint.forget()


def subject_of(
    cell: Cell, seed: int, loaded: Any, first: bool, progress: Progress, out: Path | None, prepared: Path | None
) -> Subject:
    """Return what is measured for one seed; `loaded` is what `load_data` returned, `out` and `prepared` as for `run_cell`."""
    checkpoint = None
    if out is not None:
        identity = {"cell": cell.hash, "seed": seed, "code": code_hash(cell), "torch": torch.__version__}
        path = out.with_name(f"{out.stem}-seed{seed}.checkpoint")
        checkpoint = Checkpoint(path, 60 * cell.checkpoint_minutes, json.dumps(identity))
    return Subject(
        make=lambda dtype: problem_of(cell, seed, loaded, cell.device, dtype, prepared),
        dtype=cell.dtype,
        method=method_of(cell),
        options=method_options(cell),
        seed=seed,
        device=cell.device,
        measure=cell.measure,
        limit_bytes=cell.limit_bytes,
        check_seconds=_CHECK_SHARE * cell.limit_seconds / len(cell.seeds),
        outer_steps=cell.outer_steps,
        first=first,
        progress=progress,
        kind_options=kind_options(cell),
        checkpoint=checkpoint,
        curve=cell.curve,
        dataset=cell.dataset,
        prepared=folders_of(prepared, cell, seed),
    )


def _measured(cell: Cell, subject: Subject) -> Iterator[Mapping[str, Any]]:
    """Yield the columns of one seed, stage by stage."""
    whole, kind = Stopwatch(), kind_of(cell)
    with whole:
        for stage in kind.stages:
            for columns in stage(subject):
                _check(columns, kind)
                yield columns
    yield {"measured_s": whole.seconds}


def _check(columns: Any, kind: Kind) -> None:
    """Raise MetabenchError unless a stage yielded columns of its kind, with values that the pipe to the file's writer takes."""
    if not isinstance(columns, Mapping):
        raise MetabenchError(
            f"a stage of kind '{kind.name}' yielded a {type(columns).__name__}, expected columns by name"
        )
    for name, value in columns.items():
        if name not in (*kind.columns, *SIZES, "message"):
            raise MetabenchError(
                f"a stage of kind '{kind.name}' fills a column that its kind does not declare: {unknown('column', name, kind.columns)}"
            )
        if not isinstance(value, _PLAIN) or (name == "message" and not isinstance(value, str)):
            raise MetabenchError(
                f"a stage of kind '{kind.name}' fills the column '{name}' with {value!r}, a {type(value).__name__}"
            )


def _add(row: Row, columns: Mapping[str, Any]) -> None:
    """Add columns to a row. Messages of several stages all stay."""
    message = "; ".join(filter(None, (row["message"], columns.get("message", ""))))
    row.update(columns)
    row["message"] = message[:MESSAGE_LENGTH]
