"""Rows say how little mixed mode could need, where the loss is a chain of segments, whichever method the row is of."""

from __future__ import annotations

from typing import Any

from kernel_choice import KERNELS

from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell

MEASURE = {"time_repeats": 3, "time_budget": 0.01, "error_windows": 0, "checkpoint": 0}
SUITE = {"name": "x", "aa": False, "kernels": KERNELS, "measure": MEASURE}
LANGUAGE_MODEL = {
    "problem": "lm_learning_rates",
    "sizes": ["100k"],
    "options": {"sequence": 16, "batch": 2},
    "inner_steps": [2],
}


def row(**experiment: Any) -> dict[str, Any]:
    values = {"kind": "cost", "methods": ["unrolled"], "seeds": [0]} | experiment
    (cell,) = plan(load_suite(SUITE | {"experiments": {"a": values}})).cells
    (found,) = run_cell(cell, lambda stage, done, total: None)
    assert found["status"] == "ok", found["message"]
    return found


def test_a_chain_of_segments_has_a_floor_below_what_plain_reverse_mode_takes() -> None:
    found = row(**LANGUAGE_MODEL)
    assert 0 < found["floor_bytes"] < found["dynamic_bytes"]


def test_a_loss_in_one_piece_has_none() -> None:
    assert "floor_bytes" not in row(problem="toy_1d", inner_steps=[2])
