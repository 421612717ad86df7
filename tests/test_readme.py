"""The README shows what the published run gives, and the commands that it names are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from metabench.results.store import read_metadata, read_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "results" / "reference"


def test_its_table_and_figure_are_those_of_the_published_rows() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "publish.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / figure).is_file()


def test_the_published_rows_are_a_whole_run_of_one_source_on_named_hardware() -> None:
    rows = read_rows(REFERENCE / "results.parquet")
    assert rows.num_rows >= 180
    assert len(set(rows["cell"].to_pylist())) >= 60
    assert len(set(rows["git_commit"].to_pylist())) == len(set(rows["hardware"].to_pylist())) == 1
    assert read_metadata(REFERENCE / "results.parquet").suite.startswith("name: default")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_every_make_target_that_it_names_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_file_that_it_links_exists(link: str) -> None:
    assert (ROOT / link).exists()
