"""What a person gives on Snakemake's command line decides the suite, and a mistake is one clear message."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.slow  # each test starts Snakemake, and some run cells

OTHER = {"other": {"problem": "toy_1d", "methods": ["none"]}}


def titles(text: str) -> list[str]:
    return sorted(set(re.findall(r"Job \d+: (toy_1d\S+ · .*)", text)))


def test_another_configuration_replaces_the_default_one_and_a_key_on_the_command_line_goes_over_it(fresh: Workflow) -> None:
    path = fresh.folder / "other.yaml"
    path.write_text(yaml.safe_dump({"name": "other", "experiments": OTHER}), encoding="utf-8")
    said = fresh.snakemake("-n", "--configfile", "other.yaml", "--config", "seeds=[1, 2]")
    assert titles(said.text) == ["toy_1d/analytic/scalar · none · 2 seeds"]
    assert "results/other/" in said.text
    assert "results/tiny" not in said.text


def test_keys_and_experiments_on_the_command_line_go_over_the_default_configuration(fresh: Workflow) -> None:
    more = "more: {problem: toy_1d, inner_steps: [7], methods: [{truncated: {steps: [2, 3]}}]}"
    data = "data: {problem: label_noise, datasets: [fashion_mnist], methods: [none, t1t2]}"
    said = fresh.snakemake("-n", "--config", "name=changed", "seeds=[4]", f"experiments={{{more}, {data}}}")
    assert sum("truncated" in title for title in titles(said.text)) == 2
    assert len(titles(said.text)) == 3 + 2
    assert all(title.endswith("1 seed") for title in titles(said.text))
    assert "results/changed/" in said.text
    # Data that does not ship is fetched first.
    assert re.search(r"fetch_data\s+1\n", said.text)
    assert "fetch fashion_mnist" in said.text


def test_a_partner_of_the_baseline_is_a_job_of_its_own(fresh: Workflow) -> None:
    found = titles(fresh.snakemake("-n", "--config", "aa=true").text)
    assert len(found) == 4
    assert [title for title in found if "again" in title] == ["toy_1d/analytic/scalar · t1t2 · 2 inner steps · again · 2 seeds"]


# One of the suite's own keys and one that is found when its cells are planned; tests/suite has the others.
@pytest.mark.parametrize(("given", "named"), [("seedz=[0]", "seeds"), ("experiments={toy: {methods: [evogard]}}", "evograd")])
def test_a_mistake_is_one_message_before_any_job(fresh: Workflow, given: str, named: str) -> None:
    said = fresh.snakemake("-n", "--config", given, expect=None)
    (message,) = (line for line in said.text.splitlines() if line.startswith("Error: "))
    assert named in message
    assert "Traceback" not in said.text
    assert "File " not in said.text
    assert not (fresh.folder / "results").exists()


def test_a_results_folder_that_cannot_be_written_is_found_before_any_job(fresh: Workflow) -> None:
    said = fresh.snakemake("--config", "results=plugin.py/results", expect=None)
    assert "Error: cannot write results to 'plugin.py/results/tiny'" in said.text
    assert "Traceback" not in said.text
    assert "Job " not in said.text


def test_a_cell_that_the_suite_has_not_is_named(fresh: Workflow) -> None:
    said = fresh.snakemake("results/tiny/cells/toy_1d/analytic/scalar/t1t2-00000000.parquet", expect=None)
    assert "the suite 'tiny' has no cell toy_1d/analytic/scalar/t1t2-00000000" in said.text
    assert "Traceback" not in said.text


def test_totals_that_would_let_cells_share_a_gpu_are_refused(fresh: Workflow) -> None:
    said = fresh.snakemake(fresh.target("none"), "--resources", "mem_mb=8000", "--config", "device=cuda", expect=None)
    assert "add gpu=1 to --resources" in said.text
    assert not list((fresh.folder / "results").rglob("*.parquet"))


def test_a_cache_folder_that_cannot_be_made_ends_in_one_sentence(fresh: Workflow, tmp_path: Path) -> None:
    """Under a file no folder can be made, by root neither."""
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    for variables, words in (
        ({"HOME": str(blocked), "XDG_CACHE_HOME": ""}, "follows HOME"),
        ({"XDG_CACHE_HOME": str(blocked / "cache")}, f"XDG_CACHE_HOME is '{blocked / 'cache'}'"),
    ):
        done = subprocess.run(
            fresh.command("-n"),
            cwd=fresh.folder,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stdout + done.stderr
        assert words in done.stderr and "set XDG_CACHE_HOME to a folder that can be" in done.stderr
