"""A text of the user in a suite: taken where a problem takes text, kept in a folder of its own, run again when it changes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from metabench.core.errors import MetabenchError
from metabench.problems import problems
from metabench.suite.plan import plan as planning
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import Plan
from metabench.suite.run.provenance import results_metadata

Planned = Callable[..., Plan]


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the toy problem offer other data sets."""

    def offer(*datasets: str) -> None:
        toy = problems()["toy_1d"]
        reader = type("Reader", (toy,), {"card": dataclasses.replace(toy.card, datasets=datasets)})
        monkeypatch.setattr(planning, "problems", lambda plugins: {"toy_1d": reader})

    return offer


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "a novel.txt"
    path.write_bytes(b"It was a dark and stormy night. " * 1000)
    return path


@pytest.fixture
def library(tmp_path: Path, novel: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    for name in ("prose.txt", "poems.txt"):
        (folder / name).write_bytes(novel.read_bytes())
    return folder


def test_a_file_is_taken_where_a_text_is_and_a_folder_where_domains_are(
    planned: Planned, takes: Callable[..., None], novel: Path, library: Path
) -> None:
    takes("foldoc", "jargon")
    assert [cell.dataset for cell in planned(datasets=["jargon", f"text:{novel}"]).cells] == ["jargon", f"text:{novel}"]
    takes("jargon_foldoc")
    assert [cell.dataset for cell in planned(datasets=[f"text:{library}"]).cells] == [f"text:{library}"]


@pytest.mark.parametrize(
    ("offered", "given", "complaint"),
    [
        (("analytic", "digits"), "text:{novel}", "takes no text, so not 'text:{novel}': known: analytic, digits"),
        (("jargon",), "text:{library}", "takes text as in data set 'jargon': name one file, not a folder of 2 texts"),
        (("jargon_foldoc",), "text:{novel}", "name a folder with a .txt file for each domain, not one text"),
        (("jargon",), "text:{novel}.bak", "there is no file or folder {novel}.bak: did you mean '{novel}'?"),
        (("jargon",), "txt:{novel}", "unknown data set 'txt:{novel}'"),
    ],
)
def test_a_text_that_a_problem_cannot_take_is_refused(
    planned: Planned,
    takes: Callable[..., None],
    novel: Path,
    library: Path,
    offered: tuple[str, ...],
    given: str,
    complaint: str,
) -> None:
    takes(*offered)
    places = {"novel": novel, "library": library}
    with pytest.raises(MetabenchError) as refused:
        planned(datasets=[given.format(**places)])
    assert complaint.format(**places) in str(refused.value)


def test_its_rows_lie_in_one_folder_of_the_suite_whatever_its_path(
    planned: Planned, takes: Callable[..., None], novel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes("jargon")
    below = novel.parent / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    names = [f"text:{novel}", "text:../a novel.txt"]
    found = planned(datasets=names)
    folders = [cell.folder for cell in found.cells]
    assert all(len(folder.parts) == 3 and ".." not in folder.parts and not folder.is_absolute() for folder in folders)
    assert len(set(folders)) == len({cell.hash for cell in found.cells}) == 2
    assert all(found.folder in found.row_file(cell).resolve().relative_to(below).parents for cell in found.cells)
    assert [Cell.from_json(cell.to_json(), "here").dataset for cell in found.cells] == names


def test_a_cell_runs_again_when_the_text_changed_and_only_then(cell: Cell, novel: Path) -> None:
    own = dataclasses.replace(cell, dataset=f"text:{novel}")
    before = code_hash(own)
    assert len(before) == 12 and before == code_hash(own) != code_hash(cell)
    os.utime(novel, (0, 0))
    assert code_hash(own) == before
    novel.write_bytes(novel.read_bytes() + b"The end.")
    assert code_hash(own) != before


def test_the_metadata_say_which_text_it_was(planned: Planned, takes: Callable[..., None], novel: Path) -> None:
    takes("jargon")
    told = json.loads(results_metadata(planned(datasets=[f"text:{novel}"]))["datasets"])
    card = told[f"text:{novel}"]
    assert card["available"] and sum(card["sizes"].values()) == card["bytes"] == novel.stat().st_size
    assert list(card["files"]) == [novel.name]
