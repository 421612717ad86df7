"""What many cells share is computed once, before them; where that fails, the cells have rows that say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import PLUGIN, SUITE, Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and runs cells

RESULTS = "results/tiny/results.parquet"

COSTLY = '''

import dataclasses
import os
import signal

from metabench.core import option
from metabench.core.errors import MetabenchError
from metabench.problems import toy_1d


@dataclasses.dataclass(frozen=True)
class Options(toy_1d.Options):
    """Options of `costly`."""

    shared: int = option(1, help="of what is shared")


class Costly(toy_1d.Toy1D):
    """The toy problem, with a number that takes long to compute."""

    card = dataclasses.replace(toy_1d.Toy1D.card, name="costly", title="costly", options=Options)

    @classmethod
    def prepares(cls, size, options):
        return {"shared": options.shared} if options.shared else {}

    def __init__(self, setting):
        super().__init__(setting)
        if not setting.options.shared:
            return
        if Path("fail").exists():
            raise MetabenchError("the number is out of reach")
        file = setting.prepared / f"{setting.seed}.txt"
        if not file.exists():
            if Path("die").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("1")
            with Path("computed").open("a") as log:
                log.write(f"{setting.seed} {setting.options.shared}\\n")
'''


@pytest.fixture
def costly(source_folder: Path, tmp_path: Path) -> Workflow:
    """A suite of two methods on a problem whose number depends on an option, and on another that needs none of it."""
    shutil.copytree(source_folder, tmp_path / "tree")
    workflow = Workflow(tmp_path / "tree")
    (workflow.folder / "plugin.py").write_text(PLUGIN + COSTLY, encoding="utf-8")
    toy = SUITE["experiments"]["toy"] | {"problem": "costly", "methods": ["none", "t1t2"]}
    rates = toy | {"options": {"learning_rate": [0.1, 0.2]}}
    without = toy | {"options": {"shared": 0}, "methods": ["t1t2"]}
    workflow.write_suite(experiments={"rates": rates, "without": without})
    return workflow


def marks(workflow: Workflow) -> list[dict[str, Any]]:
    """Return what the marks say."""
    return [json.loads(path.read_text()) for path in sorted((workflow.results() / "prepared").glob("*.json"))]


def test_it_is_computed_once_for_each_seed_and_never_where_nothing_changed(costly: Workflow) -> None:
    costly.snakemake(RESULTS)
    assert {row["status"] for row in costly.rows()} == {"ok"} and len(costly.rows()) == 10
    assert sorted((costly.folder / "computed").read_text().split("\n")) == ["", "0 1", "1 1"]
    assert [mark["failed"] for mark in marks(costly)] == ["", ""]
    assert [list(mark["files"]) for mark in marks(costly)] in ([["0.txt"], ["1.txt"]], [["1.txt"], ["0.txt"]])
    assert "Nothing to be done" in costly.snakemake(RESULTS).text
    # Another seed needs one more; another plugin's source makes all anew, as it does the rows.
    costly.snakemake(RESULTS, "--config", "seeds=[0, 1, 2]")
    assert (costly.folder / "computed").read_text().count("\n") == 3
    with (costly.folder / "plugin.py").open("a") as file:
        file.write("# changed\n")
    costly.snakemake(RESULTS)
    assert (costly.folder / "computed").read_text().count("\n") == 5


def test_what_cannot_be_computed_is_a_row_of_each_cell_that_needs_it(costly: Workflow) -> None:
    (costly.folder / "fail").touch()
    costly.snakemake(RESULTS)
    rows = {(row["experiment"], row["status"], row["message"]) for row in costly.rows()}
    assert rows == {("rates", "error", "the number is out of reach"), ("without", "ok", "")}
    assert {mark["failed"] for mark in marks(costly)} == {"the number is out of reach"}


def test_a_job_that_is_lost_twice_leaves_it_to_the_cells_and_the_next_run_tries_again(costly: Workflow) -> None:
    (costly.folder / "die").touch()
    costly.snakemake(RESULTS)
    assert {row["status"] for row in costly.rows() if row["experiment"] == "rates"} == {"error"}
    assert all("was killed (SIGKILL)" in mark["failed"] for mark in marks(costly))
    (costly.folder / "die").unlink()
    costly.snakemake(RESULTS)
    assert {row["status"] for row in costly.rows()} == {"ok"}
    assert {mark["failed"] for mark in marks(costly)} == {""}
