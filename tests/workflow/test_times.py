"""The cells of a setting are timed by one job, alone, after all of them have their rows, and again when one of them changed."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from metabench.results.times import read_times
from tests.workflow.conftest import SUITE, Workflow

pytestmark = pytest.mark.slow  # starts Snakemake, and runs cells

RESULTS = "results/tiny/results.parquet"
TIMED: dict[str, Any] = {"rounds": 5, "seeds": [0, 1]}

LETHAL = """

@method(title="kills the process that asks for its time", target=Target.NONE, exact=True, cost=Cost(), citation="")
def lethal(problem, state, meta, window, options, generator):
    import os, signal
    if Path("lethal").exists():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return baseline.none.function(problem, state, meta, window, options, generator)
"""


def repeats(of: Workflow) -> dict[str, set[int | None]]:
    """Return in how many rounds the seeds of each method were timed."""
    found: dict[str, set[int | None]] = {}
    for row in of.rows():
        found.setdefault(row["method"], set()).add(row["time_repeats"])
        assert (row["time_median_s"] is None) == (row["time_repeats"] is None)
    return found


def jobs(text: str) -> dict[str, int]:
    """Return how many jobs of each rule a run of Snakemake had."""
    return {rule: int(number) for rule, number in re.findall(r"^(run_cell|time_setting)\s+(\d+)$", text, re.MULTILINE)}


def test_cells_are_timed_together_and_again_when_one_changed(fresh: Workflow) -> None:
    fresh.write_suite(**TIMED)
    assert jobs(fresh.snakemake(RESULTS).text) == {"run_cell": 3, "time_setting": 1}
    assert repeats(fresh) == {"none": {5, None}, "t1t2": {5, None}, "broken": {None}}
    turns = read_times(fresh.results() / "times.parquet").to_pylist()
    assert len(turns) == 2 * 5 and len({turn["process"] for turn in turns}) == 2
    assert "Nothing to be done" in fresh.snakemake(RESULTS).text

    method = fresh.folder / "metabench" / "methods" / "t1t2.py"
    source = method.read_text(encoding="utf-8")
    method.write_text(source + "\n# edited\n", encoding="utf-8")
    assert jobs(fresh.snakemake("-n", RESULTS).text) == {"run_cell": 1, "time_setting": 1}

    method.write_text(source, encoding="utf-8")
    fresh.write_suite(**TIMED | {"rounds": 3})
    assert jobs(fresh.snakemake(RESULTS).text) == {"time_setting": 1}
    assert repeats(fresh) == {"none": {3, None}, "t1t2": {3, None}, "broken": {None}}


def spans(of: Workflow) -> dict[str, list[tuple[float, float]]]:
    """Return when the jobs of each rule began, and wrote their output, as Snakemake has kept it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in (of.folder / ".snakemake" / "metadata").iterdir():
        kept = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(kept["rule"], []).append((kept["starttime"], kept["endtime"]))
    return found


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_cells_share_the_machine_and_a_job_that_times_them_has_it_to_itself(fresh: Workflow) -> None:
    toy = SUITE["experiments"]["toy"] | {"methods": ["none", "t1t2"], "inner_steps": [2, 3]}
    fresh.write_suite(**TIMED, certify=True, experiments={"toy": toy})
    fresh.snakemake(RESULTS)
    found = spans(fresh)
    assert {rule: len(found[rule]) for rule in ("run_cell", "certify_method", "time_setting")} == {
        "run_cell": 4,
        "certify_method": 2,
        "time_setting": 2,
    }
    beside = found["run_cell"] + found["certify_method"]
    assert any(overlap(*pair) for pair in itertools.combinations(beside, 2))
    timing = found.pop("time_setting")
    assert not overlap(*timing)
    assert not [pair for pair in itertools.product(timing, itertools.chain(*found.values())) if overlap(*pair)]


def test_a_bound_on_threads_that_lets_jobs_run_beside_those_that_are_timed_is_refused(fresh: Workflow) -> None:
    fresh.write_suite(**TIMED)
    said = fresh.snakemake("--max-threads", "1", expect=None)
    assert "with --max-threads 1 of 2 cores, jobs would run beside those that are timed" in said.text
    assert not fresh.row_files()


def test_a_lost_job_leaves_rows_that_say_so_and_is_tried_again(fresh: Workflow) -> None:
    with (fresh.folder / "plugin.py").open("a", encoding="utf-8") as file:
        file.write(LETHAL)
    toy = SUITE["experiments"]["toy"] | {"methods": ["none", "lethal"]}
    fresh.write_suite(**TIMED | {"seeds": [0]}, experiments={"toy": toy}, baseline="none")
    fresh.snakemake("--until", "run_cell")
    (fresh.folder / "lethal").touch()

    fresh.snakemake(RESULTS)
    assert repeats(fresh) == {"none": {None}, "lethal": {None}}
    for row in fresh.rows():
        assert row["status"] == "ok" and row["message"].startswith(
            "not timed: the job was lost: attempt 1, 2, 3, 4 was killed (SIGKILL)"
        )

    (fresh.folder / "lethal").unlink()
    assert jobs(fresh.snakemake(RESULTS).text) == {"time_setting": 1}
    assert repeats(fresh) == {"none": {5}, "lethal": {5}}
    assert {row["message"] for row in fresh.rows()} == {""}
