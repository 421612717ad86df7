from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from metabench.core.errors import MetabenchError
from metabench.data import DataFile
from metabench.data.fetch.download import SourceFailed, download

NAME = "train-images.gz"


@pytest.fixture
def file(tiny) -> DataFile:
    return tiny.files[0]


def silent(what: str, here: int, total: int) -> None:
    del what, here, total


def test_a_file_arrives_whole_and_reports_its_progress(server, file, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    download(server.address + NAME, tmp_path / NAME, file, lambda *report: seen.append(report))
    assert (tmp_path / NAME).read_bytes() == server.contents[NAME]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert seen[-1] == (NAME, file.size, file.size)


def test_a_broken_connection_is_resumed_where_it_broke(server, file, tmp_path: Path) -> None:
    server.cuts = [3000, 2000]
    download(server.address + NAME, tmp_path / NAME, file, silent)
    assert server.asked == [(NAME, None), (NAME, "bytes=3000-"), (NAME, "bytes=5000-")]
    assert (tmp_path / NAME).read_bytes() == server.contents[NAME]


def test_the_next_call_goes_on_from_what_the_last_one_left(server, file, tmp_path: Path) -> None:
    server.cuts = [4000, 0]
    with pytest.raises(SourceFailed, match=rf"after 4,000 of {file.size:,} bytes"):
        download(server.address + NAME, tmp_path / NAME, file, silent)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.part"]
    download(server.address + NAME, tmp_path / NAME, file, silent)
    assert server.asked[-1] == (NAME, "bytes=4000-")
    assert (tmp_path / NAME).read_bytes() == server.contents[NAME]


def test_an_interrupt_leaves_no_file_under_the_final_name_and_loses_nothing(server, file, tmp_path: Path) -> None:
    server.cuts = [5000]

    def interrupt(what: str, here: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.address + NAME, tmp_path / NAME, file, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.part"]
    download(server.address + NAME, tmp_path / NAME, file, silent)
    assert server.asked[-1] == (NAME, "bytes=5000-")


def test_a_server_without_ranges_is_read_from_the_start(server, file, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / f"{NAME}.part").write_bytes(server.contents[NAME][:100])
    download(server.address + NAME, tmp_path / NAME, file, silent)
    assert (tmp_path / NAME).read_bytes() == server.contents[NAME]


def test_a_server_that_always_breaks_at_the_same_byte_is_given_up(server, file, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [1000] * 10
    with pytest.raises(SourceFailed, match="after 1,000 of"):
        download(server.address + NAME, tmp_path / NAME, file, silent)
    assert len(server.asked) == 2


def test_a_wrong_checksum_is_refused_and_the_file_kept_aside(server, file, tmp_path: Path) -> None:
    wrong = server.contents[NAME][:-1] + b"?"
    server.contents[NAME] = wrong
    found = hashlib.sha256(wrong).hexdigest()
    with pytest.raises(SourceFailed, match=rf"expected sha256 {file.sha256}, found {found}"):
        download(server.address + NAME, tmp_path / NAME, file, silent)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.corrupt-{found[:8]}"]


@pytest.mark.parametrize("length", [50, 10**6])
def test_a_wrong_beginning_is_put_aside_and_the_file_asked_for_anew(server, file, length: int, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * length)
    download(server.address + NAME, tmp_path / NAME, file, silent)
    assert (tmp_path / NAME).read_bytes() == server.contents[NAME]
    assert len(list(tmp_path.glob(f"{NAME}.corrupt-*"))) == 1


def test_a_page_in_place_of_the_file_is_refused_before_it_is_written(server, file, tmp_path: Path) -> None:
    server.contents[NAME] = b"<html>please log in</html>"
    with pytest.raises(SourceFailed, match=rf"expected {file.size:,} bytes, the server announces 26"):
        download(server.address + NAME, tmp_path / NAME, file, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_and_a_closed_door_say_so(server, file, tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match="HTTP 404"):
        download(server.address + "nothing", tmp_path / NAME, file, silent)
    with pytest.raises(SourceFailed, match=r"refused.*after 0 of"):
        download("http://127.0.0.1:9/" + NAME, tmp_path / NAME, file, silent)


def test_a_folder_that_cannot_be_written_is_the_user_s_to_mend(server, file, tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=rf"cannot write .*{NAME}.part: No such file or directory"):
        download(server.address + NAME, tmp_path / "nowhere" / NAME, file, silent)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_as_such(server, file, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(MetabenchError, match="No space left on device"):
        download(server.address + NAME, tmp_path / NAME, file, silent)
