"""What a job asks for is never above its limits, and below them only where a prediction covers all that the cell does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from metabench.suite.cluster.scheduler_requests import (
    FLOPS_PER_SECOND,
    GROUP_MB,
    PROCESSES_MB,
    SPARE_MB,
    START_MINUTES,
    group_memory_mb,
    group_minutes,
    memory_mb,
    runtime_minutes,
)
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import Plan
from metabench.suite.predict.predictions import Predictions
from tests.suite.test_predictions import predicted

MIB = 2**20


@pytest.fixture
def cells(planned: Callable[..., Plan]) -> dict[str, Cell]:
    """Cells of one problem, by method."""
    found = planned(methods=["none", "unrolled", "t1t2"]).cells
    return {cell.method: cell for cell in found}


def without_error(cell: Cell) -> Cell:
    return dataclasses.replace(cell, measure=cell.measure | {"error_windows": 0})


def known(*pairs: tuple[Cell, dict[str, Any]]) -> Predictions:
    return Predictions([predicted(cell, **figures) for cell, figures in pairs])


def test_without_a_prediction_the_limits_decide(cells: dict[str, Cell]) -> None:
    cell = cells["t1t2"]
    for nothing in (Predictions(), known((cell, {"message": "no trace"}))):
        assert memory_mb(cell, nothing) == 2048 + 2 * 4096
        assert runtime_minutes(cell, nothing) == 5 + 5


def test_a_prediction_that_leaves_something_out_decides_no_memory(cells: dict[str, Cell]) -> None:
    cell, yardstick = cells["t1t2"], cells["unrolled"]
    low, whole = {"peak_bytes": MIB, "note": "workspaces are not counted"}, {"peak_bytes": MIB}
    for own, exact in ((low, whole), (whole, low)):
        assert memory_mb(cell, known((cell, own), (yardstick, exact))) == 2048 + 2 * 4096


def test_memory_is_twice_the_peak_with_what_the_processes_take(cells: dict[str, Cell]) -> None:
    cell = without_error(cells["t1t2"])
    assert memory_mb(cell, known((cell, {"peak_bytes": 100 * MIB}))) == SPARE_MB + PROCESSES_MB + 200


def test_the_exact_hypergradient_that_errors_are_measured_against_counts(cells: dict[str, Cell]) -> None:
    cell, yardstick = cells["t1t2"], cells["unrolled"]
    own = (cell, {"peak_bytes": MIB})
    assert memory_mb(cell, known(own)) == 2048 + 2 * 4096
    assert memory_mb(cell, known(own, (yardstick, {"peak_bytes": 300 * MIB}))) == SPARE_MB + PROCESSES_MB + 600
    assert runtime_minutes(cell, known(own)) == 10
    assert runtime_minutes(cell, known(own, (yardstick, {}))) == START_MINUTES + 1
    baseline = cells["none"]
    assert memory_mb(baseline, known((baseline, {"peak_bytes": MIB}))) == SPARE_MB + PROCESSES_MB + 2


def test_every_task_of_an_outer_step_takes_its_time(cells: dict[str, Cell]) -> None:
    cell = dataclasses.replace(without_error(cells["t1t2"]), outer_steps=60, limit_seconds=36_000.0)
    second = {"flops": round(FLOPS_PER_SECOND), "operations": 0}
    one, four = (runtime_minutes(cell, known((cell, second | {"tasks": tasks}))) for tasks in (1, 4))
    assert four - one == 3 * len(cell.seeds)


def test_nothing_is_asked_for_beyond_the_limits(cells: dict[str, Cell]) -> None:
    cell = without_error(cells["t1t2"])
    endless = known((cell, {"peak_bytes": 2**50, "flops": 10**18}))
    assert memory_mb(cell, endless) == 2048 + 2 * 4096
    assert runtime_minutes(cell, endless) == 10


def test_minutes_grow_with_the_work_of_all_seeds(cells: dict[str, Cell]) -> None:
    patient = dataclasses.replace(without_error(cells["none"]), limit_seconds=36_000.0, outer_steps=1000)
    minutes = [
        runtime_minutes(cell, known((cell, {"flops": flops, "operations": 100})))
        for cell in (patient, dataclasses.replace(patient, seeds=list(range(12))))
        for flops in (10**6, 10**9, 10**10)
    ]
    assert minutes[:3] == sorted(set(minutes[:3])) and minutes[3:] == sorted(set(minutes[3:]))
    assert all(more > less for less, more in zip(minutes[:3], minutes[3:], strict=True))


def test_a_cell_on_a_gpu_asks_for_memory_of_the_host_by_its_limits(cells: dict[str, Cell]) -> None:
    cell = dataclasses.replace(without_error(cells["t1t2"]), device="cuda")
    assert memory_mb(cell, known((cell, {"peak_bytes": MIB}))) == 2048 + 2 * 4096


def test_a_group_asks_for_all_its_cells_at_once_up_to_a_bound(planned: Callable[..., Plan]) -> None:
    (group,) = planned(methods=["none", "unrolled", "t1t2"]).groups

    def asked(peak: int) -> int:
        return group_memory_mb(group, known(*((cell, {"peak_bytes": peak * MIB}) for cell in group.cells)))

    assert asked(100) == SPARE_MB + 3 * (PROCESSES_MB + 100)
    # Split then: into a part with the baseline and one other at least.
    large = dataclasses.replace(
        group, cells=tuple(dataclasses.replace(cell, limit_bytes=2**40) for cell in group.cells)
    )
    enormous = known(*((cell, {"peak_bytes": 2**35}) for cell in large.cells))
    assert group_memory_mb(large, enormous) == SPARE_MB + 2 * (PROCESSES_MB + 2**15)
    medium = known(*((cell, {"peak_bytes": 2**33 - 2**30}) for cell in large.cells))
    assert group_memory_mb(large, medium) == SPARE_MB + GROUP_MB


def test_a_group_asks_for_the_time_limits_of_its_cells_at_most(planned: Callable[..., Plan]) -> None:
    (group,) = planned(methods=["none", "unrolled", "t1t2"]).groups
    assert group_minutes(group, Predictions()) == START_MINUTES + 3 * 5
    quick = group_minutes(group, known(*((cell, {"flops": 10**6}) for cell in group.cells)))
    endless = group_minutes(group, known(*((cell, {"flops": 10**18}) for cell in group.cells)))
    assert START_MINUTES < quick < endless <= START_MINUTES + 3 * 5 + 1
