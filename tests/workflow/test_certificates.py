"""A suite certifies its methods, and a wrong one is marked wherever it stands."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from metabench.results.store import read_metadata
from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and most certify methods

PLUGIN = '''"""A method of the tests: it is twice as long as it declares to be."""

from __future__ import annotations

import dataclasses

from metabench.core import Cost, Target, method, tree
from metabench.methods import t1t2 as right


@method(title="twice one step", target=Target.ONE_STEP, exact=True, cost=Cost(), citation="")
def double(problem, state, meta, window, options, generator):
    found = right.t1t2.function(problem, state, meta, window, right.t1t2.options(), generator)
    return dataclasses.replace(found, meta=tree.scale(2.0, found.meta))
'''

REPORT = "results/tiny/report"
METHODS = ["none", "double"]
EXPERIMENTS = {"toy": {"problem": "toy_1d", "inner_steps": [2], "outer_steps": 3, "methods": METHODS}}


@pytest.fixture(scope="module")
def certified(source_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, str]:
    """The tiny suite with a wrong method, certified and run to its end. Not to be changed."""
    folder = tmp_path_factory.mktemp("certified") / "tree"
    shutil.copytree(source_folder, folder)
    workflow = Workflow(folder)
    (folder / "wrong.py").write_text(PLUGIN, encoding="utf-8")
    workflow.write_suite(certify=True, baseline="none", seeds=[0], plugins=["wrong.py"], experiments=EXPERIMENTS)
    return workflow, workflow.snakemake(f"{REPORT}/index.html", f"{REPORT}/tables").text


@pytest.fixture
def again(certified: tuple[Workflow, str], tmp_path: Path) -> Workflow:
    """A copy of it, to do with as the test likes."""
    shutil.copytree(certified[0].folder, tmp_path / "tree")
    return Workflow(tmp_path / "tree")


def test_every_method_is_certified_by_a_job_of_its_own(certified: tuple[Workflow, str]) -> None:
    workflow, said = certified
    assert workflow.certificate_files().keys() == set(METHODS)
    assert re.search(r"certify_method\s+2\n", said)
    assert all(f"certify {method}" in said for method in METHODS)
    assert "Certificates: 1 certified, 1 FAILED" in said
    found = read_metadata(workflow.results() / "results.parquet").certificates
    assert {name: card["verdict"] for name, card in found.items()} == {
        "none": "certified",
        "double": "FAILED",
    }
    hashes = {row["method"]: row["method_hash"] for row in workflow.rows()}
    assert {name: card["method_hash"] for name, card in found.items()} == hashes


def test_a_wrong_method_is_marked_in_the_tables_and_on_the_page(certified: tuple[Workflow, str]) -> None:
    workflow, _ = certified
    report = workflow.results() / "report"
    page = (report / "index.html").read_text(encoding="utf-8")
    marked = re.findall(r"(\w+)<a class=\"dagger\" href=\"#certificates\" title=\"(\w+)", page)
    assert set(marked) == {("double", "FAILED")}
    assert "† FAILED: double." in page
    told = page[page.index('id="certificates"') : page.index('id="coverage"')]
    assert "it has the right direction and is 2 times as long" in told
    records = list(csv.DictReader((report / "tables" / "certificates.csv").open(encoding="utf-8")))
    assert {record["method"]: record["certificate"] for record in records} == {
        "none": "certified",
        "double": "FAILED",
    }
    (setting,) = (report / "tables").glob("setting-*.csv")
    with setting.open(encoding="utf-8") as file:
        assert {record["label"]: record["certificate"] for record in csv.DictReader(file)}["double"] == "FAILED"


def test_an_edited_method_is_certified_again_and_no_other(again: Workflow) -> None:
    method = again.folder / "metabench" / "methods" / "none.py"
    method.write_text(method.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    said = again.snakemake("-n").text
    assert re.search(r"certify_method\s+1\n", said) and "certify none" in said
    assert re.search(r"run_cell\s+1\n", said)


def test_editing_what_certifies_certifies_all_again_and_runs_no_cell(again: Workflow) -> None:
    source = again.folder / "metabench" / "certify" / "__init__.py"
    source.write_text(source.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    said = again.snakemake("-n").text
    assert re.search(r"certify_method\s+2\n", said)
    assert "run_cell" not in said
