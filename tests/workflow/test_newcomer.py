"""What CONTRIBUTING.md tells a newcomer is so: the method that it has written runs, is right, and stands in the report."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import SOURCE, SUITE, Workflow

pytestmark = pytest.mark.slow  # two tests run a suite

PAGE = "results/mine/report/index.html"
MARK = "<!-- example: my_cg.py -->"


def blocks_of_contributing(language: str) -> list[str]:
    """Return the blocks of a language that the text shows, from the example on."""
    text = (SOURCE / "CONTRIBUTING.md").read_text(encoding="utf-8").split(MARK)[1]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def new_method(workflow: Workflow) -> None:
    """Write the method as the text says."""
    command = [sys.executable, "-m", "metabench", "new-method", "my_cg"]
    subprocess.run(command, cwd=workflow.folder, check=True, capture_output=True)


def run(workflow: Workflow, suite: dict, *targets: str) -> dict[str, dict]:
    """Run a suite, shortened to seconds; return the row of each method."""
    suite["experiments"]["first"]["outer_steps"] = 3
    shorter = {key: SUITE[key] for key in ("measure", "aa", "rounds", "certify", "predict")} | {"seeds": [0]}
    Path(workflow.folder, "mine.yaml").write_text(yaml.safe_dump(suite | shorter), encoding="utf-8")
    workflow.snakemake(*targets, "--configfile", "mine.yaml")
    return {row["method"]: row for row in workflow.rows("mine")}


def assert_right(rows: dict[str, dict]) -> None:
    """Assert that the method's rows are those of the package's own conjugate gradients, and exact for their target."""
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["my_cg"]["target_error"] < 1e-12
    for column in ("quality", "hypergradient_error"):
        assert abs(rows["my_cg"][column] - rows["ift_cg"][column]) <= 1e-5 * abs(rows["ift_cg"][column])


@pytest.fixture(scope="module")
def as_plugin(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, dict[str, dict]]:
    """The suite of the text, run to its page, and its rows. Not to be changed."""
    folder = tmp_path_factory.mktemp("newcomer") / "tree"
    shutil.copytree(source_folder, folder)
    workflow = Workflow(folder)
    new_method(workflow)
    return workflow, run(workflow, yaml.safe_load(blocks_of_contributing("yaml")[0]), PAGE)


def test_as_a_plugin_it_stands_in_the_report_beside_the_others(as_plugin: tuple[Workflow, dict[str, dict]]) -> None:
    workflow, rows = as_plugin
    assert_right(rows)
    assert "my_cg" in (workflow.folder / PAGE).read_text(encoding="utf-8")


def test_in_the_package_one_file_is_enough(as_plugin: tuple[Workflow, dict[str, dict]], fresh: Workflow) -> None:
    shutil.copy(as_plugin[0].folder / "my_cg.py", fresh.folder / "metabench" / "methods")
    values = yaml.safe_load(blocks_of_contributing("yaml")[0])
    del values["plugins"]
    values["experiments"]["first"]["methods"] = ["my_cg"]
    rows = run(fresh, values, "results/mine/results.parquet")
    assert rows.keys() == {"my_cg"}
    assert_right({"ift_cg": as_plugin[1]["ift_cg"]} | rows)


def test_the_text_shows_the_file_and_its_mistake_as_they_are(as_plugin: tuple[Workflow, dict[str, dict]]) -> None:
    source = (as_plugin[0].folder / "my_cg.py").read_text(encoding="utf-8")
    solver, mistake = blocks_of_contributing("python")[:2]
    assert solver in source
    right = source.index("        image = tree.scale"), source.index("        value = tree.add_scaled")
    assert len(mistake.splitlines()) == len(source[slice(*right)].splitlines())
    compile(source[: right[0]] + mistake + source[right[1] :], "my_cg.py", "exec")
    assert "limit=Limit(" in source and "formula=formula" in source
    assert "`formula` is what the method equals" in (SOURCE / "CONTRIBUTING.md").read_text("utf-8")
