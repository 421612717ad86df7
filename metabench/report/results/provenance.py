"""Where the rows come from, and which of them should not be compared."""

from __future__ import annotations

import re
from collections import defaultdict

from metabench.report import numbers
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task
from metabench.results.schema import SCHEMA_VERSION


def facts(suite: Suite) -> list[tuple[str, str]]:
    """Return (name, value) pairs about the rows: hardware, versions, commit, dates, hashes."""
    metadata = suite.metadata

    def listed(column: str) -> str:
        return (
            ", ".join(sorted({str(row[column]) for row in suite.rows if row[column] not in (None, "")}))
            or "not recorded"
        )

    dates = sorted(row["started_at"] for row in suite.rows)
    loads = [row["load_at_start"] for row in suite.rows if row["load_at_start"] is not None]
    cells = {row["cell"] for row in suite.rows}
    measured = sum(row["measured_s"] or 0.0 for row in suite.rows)
    return [
        (
            "rows",
            f"{numbers.plural(len(suite.rows), 'row')}, one per cell and seed, of {numbers.plural(len(cells), 'cell')}",
        ),
        ("measured", f"{dates[0]} to {dates[-1]}" if dates else "nothing yet"),
        ("time inside measured work", numbers.seconds(measured) if measured else "none"),
        ("hardware", listed("hardware")),
        (
            "CPU kernels",
            ", ".join(sorted({place.caption_of_kernels for place in suite.places} - {""})) or "not recorded",
        ),
        ("device", listed("device")),
        ("threads of torch", listed("threads")),
        ("dtype", listed("dtype")),
        ("load at start", f"{min(loads):.2f} to {max(loads):.2f}" if loads else "not recorded"),
        ("memory read from", listed("memory_source")),
        ("torch", listed("torch_version")),
        ("Python", listed("python_version")),
        ("platform", listed("platform")),
        ("metabench", listed("metabench_version")),
        ("commit of the rows", listed("git_commit")),
        ("commit that collected", metadata.git_commit or "not recorded"),
        ("collected at", metadata.created_at or "not recorded"),
        ("hash of requirements.lock", listed("lock_hash")),
        ("row schema", f"version {SCHEMA_VERSION}"),
    ]


def warnings(suite: Suite) -> list[str]:
    """Return what readers must know before comparing rows: mixed code, hardware or versions, or files that differed from the commit."""
    found: list[str] = []
    codes: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in suite.rows:
        # Kinds, data sets, sizes and what options name have sources of their own.
        about = (row["kind"], str(row["kind_options"]), row["dataset"], row["size"], row["problem_variant"])
        codes[row["method"], row["problem"], *about].add(row["code_hash"])
        codes[row["method"], ""].add(row["method_hash"])
    mixed = [" on ".join(filter(None, key[:2])) for key, hashes in codes.items() if len(hashes) > 1]
    if mixed:
        found.append(
            f"Rows of one method and problem come from different versions of the code: {numbers.some(mixed)}. Rerun the suite to fix this."
        )
    if suite.curves_file is None and any(setting.trains for setting in suite.settings):
        found.append(
            "There is no curves.parquet beside the rows, so no curve is shown. `metabench collect` writes both."
        )
    if split := _measured_apart(suite, "hardware"):
        found.append(
            f"Rows of {numbers.some(split)} were measured on different hardware: each has its own tables, figures and ratios, "
            "because times do not compare. Statements about a method over all settings cover all hardware."
        )
    if split := _measured_apart(suite, "kernel_words"):
        kernels = sorted(
            {place.kernel_words or "kernels not recorded" for place in suite.places if place.device == "cpu"}
        )
        found.append(
            f"Rows of {numbers.some(split)} were measured with different CPU kernels ({numbers.some(kernels)}): each has its own "
            "tables, figures and ratios, because they take different bytes. Statements about a method over all settings cover all kernels."
        )
    for column, what in (
        ("torch_version", "versions of torch"),
        ("lock_hash", "locked requirements"),
        ("metabench_version", "versions of metabench"),
    ):
        values = sorted({row[column] for row in suite.rows if row[column]})
        if len(values) > 1:
            found.append(f"The rows come from different {what}: {numbers.some(values)}.")
    busy = [
        row
        for row in suite.rows
        if row["load_at_start"] is not None and row["load_at_start"] > _OWN_LOAD * cores(row["hardware"]) + _BRIEF_LOAD
    ]
    if busy:
        most = max(busy, key=lambda row: row["load_at_start"])
        found.append(
            f"The machine was busy when {len(busy)} of {numbers.plural(len(suite.rows), 'run')} began: a load of up to "
            f"{most['load_at_start']:.1f} on {numbers.plural(cores(most['hardware']), 'core')}. Their times may tell of that."
        )
    if resumed := [row for row in suite.rows if row["resumed"]]:
        found.append(
            f"{numbers.plural(len(resumed), 'run')} of {len(suite.rows)} went on from a checkpoint after an interruption: their times of "
            "training join pieces of several jobs."
        )
    if any((row["git_commit"] or "").endswith("+") for row in suite.rows):
        found.append("Some rows were measured with source files that differed from their commit (marked '+').")
    return found


_OWN_LOAD = 1.5
"""Load per core of cells that run one per core, each beside the process that writes its rows and imports libraries meanwhile."""

_BRIEF_LOAD = 0.5
"""What a cell that has just ended adds."""


def cores(hardware: str) -> int:
    """Return the cores that a row's hardware names, those that its process might use; 1 where it names none."""
    named = re.search(r"(\d+)(?: of \d+)? cores?\b", hardware)
    return int(named[1]) if named else 1


def _measured_apart(suite: Suite, name: str) -> list[str]:
    """Return the problems with their data sets of which rows on one device differ in this respect."""
    values: dict[tuple[Task, str], set[str]] = defaultdict(set)
    for setting in suite.settings:
        values[setting.task, setting.place.device].add(getattr(setting.place, name))
    return [f"{task.problem} on {task.dataset}" for (task, _), names in values.items() if len(names) > 1]
