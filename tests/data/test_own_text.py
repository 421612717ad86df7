"""A text of the user is a data set: cut into spans, known by its content, and refused with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import Domains, Text, card, datasets, is_available, load
from metabench.data.fetching import fetch
from metabench.data.sets.own_text import dataset_folder

NOVEL = np.random.default_rng(0).bytes(20_019)


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_bytes(NOVEL)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    for name, size in (("prose.txt", 20_000), ("poems.txt", 10_000), ("notes.md", 50_000)):
        (folder / name).write_bytes(NOVEL[:1] * size)
    (folder / "more.txt").mkdir()
    return folder


def test_a_file_is_cut_into_ninety_five_and_five_hundredths(novel: Path) -> None:
    data = load(f"text:{novel}")
    assert isinstance(data, Text)
    spans = (data.train, data.valid, data.test)
    assert b"".join(span.tobytes() for span in spans) == NOVEL
    assert [len(span) for span in spans] == [18_019, 1000, 1000] == list(card(f"text:{novel}").sizes.values())
    assert all(span.dtype == np.uint8 for span in spans)


def test_a_folder_gives_a_domain_for_each_text_in_alphabetical_order(library: Path) -> None:
    data = load(f"text:{library}")
    assert isinstance(data, Domains)
    assert tuple(data.texts) == card(f"text:{library}").domains == ("poems", "prose")
    assert [len(text.test) for text in data.texts.values()] == [500, 1000]
    assert card(f"text:{library}").sizes == {"train": 27_000, "valid": 1500, "test": 1500}


def test_its_card_says_that_it_is_the_user_s(novel: Path) -> None:
    own = card(f"text:{novel}")
    assert (own.name, own.task, own.source) == (f"text:{novel}", "text", str(novel))
    assert not own.embedded and not own.fetched and not own.library and not own.domains
    assert is_available(own.name) and own.name not in datasets()
    assert fetch([own.name])[0].folder is None


def test_paths_may_start_at_the_working_folder_or_at_home(novel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(novel.parent)
    monkeypatch.setenv("HOME", str(novel.parent))
    for name in ("text:novel.txt", "text:./novel.txt", "text:~/novel.txt"):
        np.testing.assert_array_equal(load(name).train, load(f"text:{novel}").train)


def test_its_files_have_the_checksums_of_their_content(novel: Path, library: Path) -> None:
    def checksums(name: str) -> dict[str, str]:
        return {file.name: file.sha256 for file in card(name).files}

    before = checksums(f"text:{novel}")
    os.utime(novel, (0, 0))
    assert checksums(f"text:{novel}") == before
    novel.write_bytes(NOVEL[:-1] + b"?")
    assert checksums(f"text:{novel}") != before
    both = checksums(f"text:{library}")
    (library / "poems.txt").rename(library / "verse.txt")
    assert checksums(f"text:{library}") != both


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("", "expected text:PATH, the path of a file or of a folder of .txt files"),
        ("{place}/novle.txt", "there is no file or folder {place}/novle.txt: did you mean '{place}/novel.txt'?"),
        ("{place}/nowhere/a.txt", "there is no file or folder {place}/nowhere/a.txt"),
        ("{place}/empty.txt", "{place}/empty.txt is empty: a text needs at least 10,000"),
        ("{place}/short.txt", "{place}/short.txt is too short, 9,999 bytes: a text needs at least 10,000"),
        ("{place}/single", "at least two; found 1; for one text, name the file: text:{place}/single/a.txt"),
        ("{place}/bare", "a folder gives one domain for each .txt file in it, at least two; found 0"),
        ("/dev/null", "/dev/null is neither a file nor a folder"),
        ("~nobody-of-this-name/a.txt", "data set 'text:~nobody-of-this-name/a.txt': "),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(novel: Path, given: str, complaint: str) -> None:
    place = novel.parent
    (place / "empty.txt").touch()
    (place / "short.txt").write_bytes(NOVEL[:9999])
    (place / "bare").mkdir()
    (place / "single").mkdir()
    (place / "single" / "a.txt").write_bytes(NOVEL)
    name = "text:" + given.format(place=place)
    for ask in (card, load):
        with pytest.raises(MetabenchError) as refused:
            ask(name)
        assert complaint.format(place=place) in str(refused.value)
    assert not is_available(name)


def test_what_the_system_refuses_is_named(novel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(MetabenchError, match=r"cannot read .*novel.txt: Permission denied"):
        load(f"text:{novel}")


@pytest.mark.parametrize("given", ["/a/b.txt", "../../b.txt", "..", "/", "~/b c.txt", "a/.txt", "b" * 500, "é漢"])
def test_the_folder_of_a_text_is_one_safe_part_of_a_path(given: str) -> None:
    folder = dataset_folder(f"text:{given}")
    assert Path("cells", folder, "size").parts == ("cells", folder, "size")
    assert folder.isascii() and len(folder) < 60 and not set(folder) & set("/:. ~")
    assert folder != dataset_folder(f"text:{given}x")


def test_the_folder_of_a_declared_data_set_is_its_name() -> None:
    assert all(dataset_folder(name) == name for name in datasets())
