"""The README shows what the published run gives, stays short, and what it and the other documents name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from metabench.report.results.load import load_suite
from metabench.report.section import headline
from metabench.results.store import read_metadata, read_rows, rows_of
from scripts import publish

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "results" / "reference"
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "config/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(rows_of(read_rows(REFERENCE / "results.parquet")))


def test_its_sentences_table_and_figures_are_those_of_the_published_rows_and_the_source() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "publish.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / figure).is_file()


def test_its_sentences_follow_the_rows(rows: pd.DataFrame) -> None:
    ratio = r"EvoGrad takes (\S+) to (\S+) times the memory of `t1t2`"
    suite = load_suite(REFERENCE / "results.parquet")
    (low, high), text = re.search(ratio, README).groups(), publish.sentences(rows, suite)
    assert text in README and text.startswith(headline(suite))
    doubled = rows.assign(peak_bytes=rows.peak_bytes.where(rows.method != "evograd", rows.peak_bytes * 2))
    found = re.search(ratio, publish.sentences(doubled, suite)).groups()
    assert [float(one) for one in found] == pytest.approx([2 * float(low), 2 * float(high)], abs=0.011)


def test_only_methods_that_are_told_apart_from_none_are_said_to_learn() -> None:
    suite = load_suite(REFERENCE / "results.parquet")
    trained = [entry for entry in suite.entries if entry.setting.experiment == "label_noise"]
    assert publish.gain(suite).startswith("Every method learns")
    (one,) = (entry for entry in trained if entry.label == "evograd")
    one.quality_by_seed[0] = 0.0
    assert publish.gain(suite).startswith("`unrolled`, `mixflow`, `t1t2` and `ift_neumann (steps=3)` learn to discount the noise: ")
    for entry in trained:
        entry.quality_by_seed = dict.fromkeys(entry.quality_by_seed, 50.0)
    assert publish.gain(suite) == "No method is told apart from training without a hypergradient."


def test_rows_that_are_older_than_their_source_are_said_to_be(rows: pd.DataFrame) -> None:
    current = dict(zip(rows.cell, rows.code_hash, strict=True))
    assert publish.changed_source(rows, current) == ""

    def said(*methods: str) -> str:
        edited = dict.fromkeys(rows.cell[rows.method.isin(methods)], "edited")
        return publish.changed_source(rows, {**current, **edited})

    commit = rows.git_commit[0][:7]
    assert said("t1t2", "evograd") == f"\nRows of `t1t2` and `evograd` are older than their source (commit {commit}).\n"
    assert "Rows of 4 of 10 methods are" in said("t1t2", "evograd", "none", "ift_cg")
    assert "Rows of every method are" in said(*rows.method)


def test_a_readme_that_hides_them_is_out_of_step_and_one_that_says_so_is_short_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "current_hashes", lambda metadata: {})
    text = publish.rendered(README, REFERENCE / "results.parquet")
    assert "Rows of every method are older than their source" in text
    assert words(text) <= 900


def test_a_cell_has_the_hash_that_the_source_gives_it(monkeypatch: pytest.MonkeyPatch, rows: pd.DataFrame) -> None:
    metadata = read_metadata(REFERENCE / "results.parquet")
    monkeypatch.setattr(publish, "code_hash", lambda cell: cell.method)
    found = publish.current_hashes(metadata)
    assert [found[cell] for cell in rows.cell] == list(rows.method)


def test_every_published_figure_is_between_marks() -> None:
    beside = publish.TIME.sub("", publish.PART.sub("", README))
    assert publish.TIME.search(README) and len(publish.PART.findall(README)) == 3
    assert not re.findall(r"\d+(?:\.\d+)?(?:×| times| MiB| ms\b| points|-fold)", beside)


def test_the_published_rows_are_a_whole_run_of_one_source_on_named_hardware() -> None:
    rows = read_rows(REFERENCE / "results.parquet")
    assert rows.num_rows >= 180
    assert len(set(rows["cell"].to_pylist())) >= 60
    assert len(set(rows["git_commit"].to_pylist())) == len(set(rows["hardware"].to_pylist())) == 1
    assert read_metadata(REFERENCE / "results.parquet").suite.startswith("name: default")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_every_make_target_that_it_names_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def words(text: str) -> int:
    """Return the number of words that a reader sees."""
    return len(re.sub("<!--.*?-->", "", text).split())


def test_it_has_at_most_900_words() -> None:
    assert words(README) <= 900


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
