"""Whatever ends a run in its middle, no half file is left, and the next run does what is missing and no more."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from waiting import wait_until

from tests.workflow.conftest import SUITE, Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and some run cells

RESULTS = "results/tiny/results.parquet"


@pytest.fixture(scope="module")
def ended(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The rows of two methods, one of which can be held up. Not to be changed."""
    folder = tmp_path_factory.mktemp("ended") / "tree"
    shutil.copytree(source_folder, folder)
    workflow = Workflow(folder)
    toy = SUITE["experiments"]["toy"] | {"methods": ["none", "patient"]}
    workflow.write_suite(seeds=[0], baseline="none", experiments={"toy": toy})
    workflow.snakemake(RESULTS)
    return workflow


@pytest.fixture
def built(ended: Workflow, tmp_path: Path) -> Workflow:
    """A copy of it, to do with as the test likes."""
    shutil.copytree(ended.folder, tmp_path / "tree")
    return Workflow(tmp_path / "tree")


def stop_in_the_middle(workflow: Workflow, number: signal.Signals) -> dict[str, int]:
    """Start the cell that is missing, send a signal while it runs, and return the row files of then."""
    before = workflow.row_files()
    rows = workflow.row_file("patient")
    log = rows.with_suffix(".log")
    for path in (rows, log, workflow.folder / RESULTS):
        path.unlink()
    (workflow.folder / "hold").touch()
    run = workflow.start(RESULTS)
    try:
        wait_until(lambda: log.is_file() and "seed 0" in log.read_text(encoding="utf-8"))
        os.killpg(run.pid, number)
        run.wait(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert run.returncode != 0
    (workflow.folder / "hold").unlink()
    left = workflow.row_files()
    assert left == {name: time for name, time in before.items() if name != "patient"}
    assert not list(workflow.results().rglob("*.part"))
    return left


def check_resumed(workflow: Workflow, before: dict[str, int]) -> None:
    workflow.snakemake(RESULTS)
    after = workflow.row_files()
    assert after.keys() == {"none", "patient"}
    assert {name: after[name] for name in before} == before
    assert len(workflow.rows()) == 2


def test_a_run_ended_from_the_keyboard_is_resumed(built: Workflow) -> None:
    check_resumed(built, stop_in_the_middle(built, signal.SIGINT))


def test_a_killed_run_is_resumed_once_unlocked(built: Workflow) -> None:
    before = stop_in_the_middle(built, signal.SIGKILL)
    assert "--unlock" in built.snakemake(RESULTS, expect=None).text
    built.snakemake("--unlock")
    check_resumed(built, before)


def test_a_corrupt_row_file_is_set_aside_and_its_cell_runs_again(built: Workflow) -> None:
    rows = built.row_file("none")
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) // 2])
    before = built.row_files()
    said = built.snakemake(RESULTS, expect=None)
    assert rows.name in said.text
    assert "set aside" in said.text
    assert not rows.exists()
    assert len(list(rows.parent.glob(f"{rows.name}.corrupt-*"))) == 1
    built.snakemake(RESULTS)
    after = built.row_files()
    assert {name for name in after if after[name] != before.get(name)} == {"none"}
    assert len(built.rows()) == 2


def test_rows_that_were_deleted_are_made_again(built: Workflow) -> None:
    built.row_file("none").unlink()
    said = built.snakemake("-n").text
    assert re.search(r"run_cell\s+1\n", said)
    assert "toy_1d/analytic/scalar · none" in said
