"""Searches on islands, run by the real Snakemake: what is chosen depends neither on the number of cores nor on what was killed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from metabench.results import searches as names
from tests.workflow.conftest import PLUGIN, Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and runs cells

RESULTS = "results/tiny/results.parquet"
FOUR = """
from metabench.models.search_space import Space
from metabench.models.spaces import SPACES

SPACES["four"] = Space("four", "two layers of two operations", ("conv3", "pool3"), (True, True), (4,))
"""
SEARCH = {
    "problem": "few_shot",
    "sizes": ["subnet"],
    "inner_steps": [1],
    "outer_steps": 3,
    "options": {"space": "four", "architecture": "conv3-conv3", "ways": 3, "queries": 2, "tasks": 1, "tested": 4},
    "kind": {"search": {"strategies": "random, local_search", "budget": 4, "tasks": 4, "islands": 2, "rounds": 2}},
    "methods": ["first_order"],
}
PARTS = [names.SHARED_PART, *(names.round_part(island, number) for number in range(2) for island in range(2))]


@pytest.fixture
def searching(source_folder: Path, tmp_path: Path) -> Workflow:
    """A suite of one search on islands, of a space that a plugin makes."""
    shutil.copytree(source_folder, tmp_path / "tree")
    workflow = Workflow(tmp_path / "tree")
    (workflow.folder / "plugin.py").write_text(PLUGIN + FOUR, encoding="utf-8")
    workflow.write_suite(seeds=[0], baseline="first_order", experiments={"islands": SEARCH})
    return workflow


def marks(workflow: Workflow) -> dict[str, dict[str, Any]]:
    """Return what the marks say, by the part that they are of."""
    found = (json.loads(path.read_text()) for path in (workflow.results() / "prepared").glob("*.json"))
    return {mark["what"].split(" · ")[2]: mark for mark in found}


def summary(workflow: Workflow) -> dict[str, float]:
    (row,) = workflow.rows()
    assert row["status"] == "ok", row["message"]
    return {name: value for name, value in row["meta_summary"].items() if value is not None}


def test_islands_are_jobs_and_a_killed_run_on_one_core_chooses_as_one_on_two(
    searching: Workflow, tmp_path: Path
) -> None:
    shutil.copytree(searching.folder, tmp_path / "other")
    killed = Workflow(tmp_path / "other")
    said = searching.snakemake(RESULTS).text
    assert sorted(marks(searching)) == sorted(PARTS) and not any(mark["failed"] for mark in marks(searching).values())
    assert "prepare few_shot/glyphs/subnet · first_order · island-1-round-1 · seed 0" in said
    # Killed before, between and after rounds, each time as soon as one more of the jobs is done.
    for done in (0, 1, 3):
        run = killed.start(RESULTS, "--cores", "1", "--rerun-incomplete")
        try:
            wait_until(
                functools.partial(lambda run, done: run.poll() is not None or len(marks(killed)) >= done, run, done)
            )
            os.killpg(run.pid, signal.SIGKILL)
        finally:
            run.wait()
        killed.snakemake("--unlock")
    killed.snakemake(RESULTS, "--cores", "1", "--rerun-incomplete")
    assert summary(killed) == summary(searching)
    assert "Nothing to be done" in killed.snakemake(RESULTS).text
