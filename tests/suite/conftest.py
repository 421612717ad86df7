"""Suites and cells of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kernel_choice import KERNELS

from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import Plan, load_suite, plan

SUITE: dict[str, Any] = {
    "name": "trial",
    "seeds": [0, 1, 2],
    "aa": False,
    "kernels": KERNELS,
    "experiments": {"toy": {"problem": "toy_1d", "inner_steps": [3], "outer_steps": 2, "methods": ["t1t2"]}},
}


@pytest.fixture
def planned() -> Callable[..., Plan]:
    """Plan a suite with one experiment on the toy problem; keywords change the experiment."""

    def make(**changes: Any) -> Plan:
        experiment = SUITE["experiments"]["toy"] | changes
        return plan(load_suite(SUITE | {"experiments": {"toy": experiment}}))

    return make


@pytest.fixture
def cell(planned: Callable[..., Plan]) -> Cell:
    """One cell with three seeds."""
    return planned().cells[0]
