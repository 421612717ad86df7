"""The method that CONTRIBUTING.md shows is complete: as it stands in the text, it runs, is right, and is in the report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import SOURCE, SUITE, Workflow

MARK = "<!-- example: finite_differences.py -->"


def blocks_of_contributing() -> tuple[str, str]:
    """Return the Python file and the suite that the text shows."""
    text = (SOURCE / "CONTRIBUTING.md").read_text(encoding="utf-8").split(MARK)[1]
    python, suite = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL)[:2]
    return python, suite


def run(workflow: Workflow, suite: dict) -> dict[str, dict]:
    """Run a suite, shortened to seconds; return the first seed's row of each method."""
    suite["experiments"]["first"]["outer_steps"] = 3
    Path(workflow.folder, "mine.yaml").write_text(
        yaml.safe_dump(suite | {"measure": SUITE["measure"]}), encoding="utf-8"
    )
    workflow.snakemake("--configfile", "mine.yaml")
    return {row["method"]: row for row in workflow.rows("mine") if row["seed"] == 0}


def test_as_a_plugin_it_stands_in_the_report_beside_the_others(fresh: Workflow) -> None:
    python, suite = blocks_of_contributing()
    Path(fresh.folder, "finite_differences.py").write_text(python, encoding="utf-8")
    rows = run(fresh, yaml.safe_load(suite))
    assert rows["finite_differences"]["status"] == "ok"
    # Central differences with a step of 1e-3 are right to about 1e-6 in float64.
    assert rows["finite_differences"]["hypergradient_error"] < 1e-5
    assert rows["finite_differences"]["quality"] == pytest.approx(rows["unrolled"]["quality"], rel=1e-2)
    page = (fresh.results("mine") / "report" / "index.html").read_text(encoding="utf-8")
    assert "finite_differences" in page


def test_in_the_package_one_file_is_enough(fresh: Workflow) -> None:
    python, suite = blocks_of_contributing()
    Path(fresh.folder, "metabench", "methods", "finite_differences.py").write_text(python, encoding="utf-8")
    values = yaml.safe_load(suite)
    del values["plugins"]
    rows = run(fresh, values)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["finite_differences"]["hypergradient_error"] < 1e-5
