"""Whose a job is, how many cores it takes, and what must hold before any of them starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabench.core.errors import MetabenchError
from metabench.suite.config.load import load_suite
from metabench.suite.plan.jobs import Jobs
from metabench.suite.plan.plan import plan

SUITE = """
name: jobs
experiments:
  toy: {problem: toy_1d, methods: [unrolled, none]}
"""


def jobs(folder: Path, cores: int | None, **keys: object) -> Jobs:
    file = folder / "suite.yaml"
    file.write_text(SUITE)
    return Jobs(plan(load_suite([file], [f"{name}={value}" for name, value in keys.items()])), cores)


@pytest.mark.parametrize(
    ("keys", "cores", "expected"),
    [
        ({}, 8, 1),  # timed in rounds
        ({"rounds": 0}, 8, 8),
        ({"rounds": 0, "timing": "shared"}, 8, 1),
        ({"device": "cuda"}, 8, 8),  # one GPU is known: its part is all
        ({"rounds": 0}, None, 1),  # a cluster's profile asks for a whole node
        ({"threads": 4}, 8, 4),
    ],
)
def test_a_cell_takes_all_cores_where_a_job_beside_it_would_disturb_what_it_times(
    tmp_path: Path, keys: dict[str, object], cores: int | None, expected: int
) -> None:
    made = jobs(tmp_path, cores, **keys)
    assert {made.cell_cores(cell) for cell in made.cells.values()} == {expected}


def test_what_is_timed_takes_all_cores(tmp_path: Path) -> None:
    assert jobs(tmp_path, 8).cores_alone(1) == 8
    assert jobs(tmp_path, 2).cores_alone(4) == 4
    assert jobs(tmp_path, None).cores_alone(3) == 3


def test_jobs_that_would_not_be_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="add gpu=1 to --resources"):
        jobs(tmp_path, 8, device="cuda").check({"mem_mb"}, None)
    with pytest.raises(MetabenchError, match="--max-threads 2 of 8 cores"):
        jobs(tmp_path, 8).check({"mem_mb"}, 2)
    jobs(tmp_path, 8).check({"mem_mb"}, 8)
    jobs(tmp_path, 8, timing="shared").check({"mem_mb"}, 2)
    jobs(tmp_path, None, device="cuda").check({}, None)


def test_a_job_of_a_cell_that_the_suite_has_not_is_named(tmp_path: Path) -> None:
    made = jobs(tmp_path, 2)
    cell = next(iter(made.cells.values()))
    assert made.cell(cell.problem, cell.dataset, cell.size, cell.method, cell.hash) is cell
    with pytest.raises(MetabenchError, match="has no cell toy_1d/analytic/scalar/none-00000000"):
        made.cell("toy_1d", "analytic", "scalar", "none", "00000000")


def test_a_cell_that_times_nothing_takes_its_threads_alone(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        "name: jobs\nexperiments:\n  sliced: {problem: toy_1d, kind: slice, methods: [unrolled]}\n"
        "  tuned: {problem: learned_quadratics, kind: {tuned: {over: 'horizon = {1, 2}'}}, methods: [none]}\n"
    )
    for keys in ([], ["rounds=0"]):
        made = Jobs(plan(load_suite([tmp_path / "suite.yaml"], keys)), 8)
        assert {cell.kind: made.cell_cores(cell) for cell in made.cells.values()} == {"slice": 1, "tuned": 1}


@pytest.mark.parametrize(
    ("keys", "devices", "cell", "group"),
    [
        # In rounds only the groups are timed; cells have a device and their part of the cores.
        ({}, 4, 4, 16),
        ({"threads": 6}, 4, 6, 16),
        ({"timing": "device"}, 4, 4, 4),
        ({"timing": "device", "rounds": 0}, 4, 4, 4),
        ({"timing": "shared"}, 4, 4, 4),
        ({"rounds": 0}, 4, 16, 16),
        ({"timing": "device"}, 1, 16, 16),
        ({"timing": "device"}, 32, 1, 1),
    ],
)
def test_jobs_on_gpus_have_a_device_and_their_part_of_the_cores(
    tmp_path: Path, keys: dict[str, object], devices: int, cell: int, group: int
) -> None:
    planned = jobs(tmp_path, 16, device="cuda", **keys)._plan
    made = Jobs(planned, 16, devices)
    assert {made.cell_cores(one) for one in made.cells.values()} == {cell}
    assert made.group_cores(planned.suite.threads) == group
    assert made.share(planned.suite.threads) <= max(16 // devices, planned.suite.threads)


def test_a_suite_on_cpus_whose_timing_is_of_the_device_has_its_own_cores_alone(tmp_path: Path) -> None:
    made = jobs(tmp_path, 16, timing="device", threads=2)
    assert made.groups and made.group_cores(2) == 2 and {made.cell_cores(one) for one in made.cells.values()} == {2}
    made.check({"mem_mb"}, 2)
    assert {cell.replicate for cell in made.cells.values()} == {0, 1}
    assert not jobs(tmp_path, 16, timing="shared").groups
