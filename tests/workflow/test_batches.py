"""A suite in batches has the rows that it has without them; a job of many cells runs again only what has to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from metabench.results.schema import CELL_COLUMNS
from tests.workflow.conftest import SUITE, Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and some run cells

RESULTS = "results/tiny/results.parquet"
TOY = SUITE["experiments"]["toy"] | {"methods": ["none", "t1t2", "broken", "unrolled"], "kind": "cost", "outer_steps": None}


def comparable(workflow: Workflow) -> list[dict[str, object]]:
    """Return the rows without what two runs differ in."""
    kept = [c.name for c in CELL_COLUMNS if not c.name.endswith(("_s", "_at")) and c.name not in ("load_at_start", "time_repeats")]
    return [{name: row[name] for name in kept if name in row} for row in workflow.rows()]


@pytest.fixture(scope="module")
def batched(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """Four cells in two batches, timed in rounds. Not to be changed."""
    folder = tmp_path_factory.mktemp("batched") / "tree"
    shutil.copytree(source_folder, folder)
    workflow = Workflow(folder)
    workflow.write_suite(experiments={"toy": TOY}, batch=3, rounds=5)
    said = workflow.snakemake(RESULTS)
    assert re.search(r"run_batch\s+2\n", said.text) and "run_cell" not in said.text
    return workflow


@pytest.fixture
def built(batched: Workflow, tmp_path: Path) -> Workflow:
    """A copy of it, to do with as the test likes."""
    shutil.copytree(batched.folder, tmp_path / "tree")
    return Workflow(tmp_path / "tree")


def test_rows_are_those_of_a_job_for_each_and_nothing_runs_twice(built: Workflow) -> None:
    rows = comparable(built)
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["error"] * 2 + ["ok"] * 2
    timed = [row["time_median_s"] for row in built.rows() if row["seed"] == 0 and row["status"] == "ok"]
    assert len(timed) == 3 and all(timed), "they are timed after their batches"
    assert "Nothing to be done" in built.snakemake(RESULTS).text
    shutil.rmtree(built.results())
    built.write_suite(experiments={"toy": TOY}, rounds=5)
    built.snakemake(RESULTS)
    assert comparable(built) == rows


def test_two_files_at_most_for_each_cell(batched: Workflow) -> None:
    kept = [path.name for path in (batched.results() / "cells").rglob("*") if path.is_file()]
    assert all(name.endswith((".parquet", ".meta.pt")) for name in kept) and len(kept) <= 2 * 4


def test_an_edited_method_runs_again_and_its_neighbours_stay(built: Workflow) -> None:
    before = built.row_files()
    method = built.folder / "metabench" / "methods" / "t1t2.py"
    method.write_text(method.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    said = built.snakemake(RESULTS)
    after = built.row_files()
    assert {name for name in before if after[name] != before[name]} == {"t1t2"}
    assert re.search(r"run_batch\s+1\n", said.text)
    assert "Nothing to be done" in built.snakemake(RESULTS).text


def test_a_row_file_that_is_gone_is_made_again_alone(built: Workflow) -> None:
    before = built.row_files()
    built.row_file("none").unlink()
    # As for the target `all`: a table that is there does not miss what it was made from.
    targets = [str(mark.relative_to(built.folder)) for mark in (built.results() / "batches").glob("*.json")] + [RESULTS]
    assert re.search(r"run_batch\s+1\n", built.snakemake(*targets, "-n").text)
    assert not list((built.results() / "cells").rglob("none-*.parquet")), "a dry run makes nothing"
    built.snakemake(*targets)
    after = built.row_files()
    assert {name for name in before if after[name] != before[name]} == {"none"}
    assert "Nothing to be done" in built.snakemake(*targets).text
