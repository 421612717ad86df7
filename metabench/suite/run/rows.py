"""The columns of every row of a cell, for any outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from metabench.core.errors import MESSAGE_LENGTH
from metabench.core.options import options_text
from metabench.measure.kernels import instruction_set
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash, method_hash
from metabench.suite.plan.labels import label, method_of, method_options, problem_class, problem_options


def base_row(cell: Cell, seed: int, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns known before a seed runs: what the cell is, and where it runs."""
    card = problem_class(cell).card
    used = method_of(cell)
    of_problem, of_method = problem_options(cell), method_options(cell)
    metric = card.metrics[0]
    return {
        "suite": cell.suite,
        "experiment": cell.experiment,
        "kind": cell.kind,
        "kind_options": cell.kind_options,
        "problem": cell.problem,
        "dataset": cell.dataset,
        "size": cell.size,
        "problem_options": dataclasses.asdict(of_problem),
        "problem_variant": options_text(of_problem),
        "method": cell.method,
        "method_options": dataclasses.asdict(of_method),
        "label": label(cell.method, of_method),
        "target": used.target.value,
        "exact": used.exact,
        "seed": seed,
        "replicate": cell.replicate,
        "inner_steps": cell.inner_steps,
        "outer_steps": cell.outer_steps,
        "batch": 0,
        "cell": cell.hash,
        "metric": metric.name,
        "direction": metric.direction,
        "device": cell.device,
        "threads": cell.threads,
        "dtype": cell.dtype,
        "kernels": cell.kernels,
        "instruction_set": instruction_set(cell.kernels) if cell.device == "cpu" else "",
        **environment,
        "code_hash": code_hash(cell),
        "method_hash": method_hash(cell.method, cell.plugins),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def failed_row(cell: Cell, seed: int, status: str, message: str, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a seed without measurements: its status and the reason."""
    return base_row(cell, seed, environment) | {"status": status, "message": message[:MESSAGE_LENGTH]}
