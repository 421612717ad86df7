"""The README shows what the published run gives, stays short, and what it and the other documents name is there."""

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
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "config/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)


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


def test_it_has_at_most_900_words() -> None:
    assert len(README.split()) <= 900


def headings(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub forms them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_heading_that_a_document_links_exists(document: str) -> None:
    source = ROOT / document
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", source.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = source.parent / path if path else source
        assert target.exists(), f"{document} links {path}"
        assert not anchor or anchor in headings(target), f"{document} links #{anchor} in {target.name}"


def test_the_readme_leads_to_every_document() -> None:
    assert [
        name for name in DOCUMENTS if name.startswith("docs/") and name not in README and name != "docs/mutants.md"
    ] == []
