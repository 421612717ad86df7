from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import Classification, card, is_available, load
from metabench.data.fetch.sources import Address, LocalFolder
from metabench.data.fetching import fetch

CLOSED = Address("http://127.0.0.1:9/")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def test_a_set_fetched_from_a_local_folder_loads(tiny, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, CLOSED)
    source = tiny.write(tmp_path / "mine" / "FashionMNIST" / "raw").parent.parent
    root = tmp_path / "root"
    (fetched,) = fetch(["tiny"], root, source)
    assert fetched.folder == root / "tiny" and fetched.sources == (f"folder {source}",)
    assert names_in(root / "tiny") == set(tiny.contents)
    assert is_available("tiny", root)
    data = load("tiny", root)
    assert isinstance(data, Classification)
    np.testing.assert_array_equal(data.train_inputs[:, 0] * 255, tiny.images[:6])
    np.testing.assert_array_equal(data.test_targets, tiny.labels[6:])


def test_the_local_folder_goes_first_and_the_next_source_gives_the_rest(tiny, server, monkeypatch, tmp_path) -> None:
    tiny.declare(monkeypatch, Address(server.address))
    source = tiny.write(tmp_path / "mine")
    (source / "test-labels.gz").unlink()
    (fetched,) = fetch(["tiny"], tmp_path / "root", source)
    assert fetched.sources == (f"folder {source}", server.address)
    assert server.asked == [("test-labels.gz", None)]
    assert is_available("tiny", tmp_path / "root")


def test_what_is_there_is_not_fetched_again(tiny, server, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, Address(server.address))
    fetch(["tiny"], tmp_path)
    asked = len(server.asked)
    (again,) = fetch(["tiny", "tiny"], tmp_path)
    assert again.sources == () and again.kept_aside == ()
    assert len(server.asked) == asked == 4


def test_a_file_of_the_same_name_but_another_set_is_not_taken(tiny, monkeypatch, tmp_path: Path) -> None:
    # MNIST and Fashion-MNIST name their files alike.
    tiny.declare(monkeypatch)
    source = tiny.write(tmp_path / "mine" / "fashion").parent
    other = source / "another"
    other.mkdir()
    for name in tiny.contents:
        (other / name).write_bytes(b"another set")
    fetch(["tiny"], tmp_path / "root", source)
    assert (tmp_path / "root" / "tiny" / "train-images.gz").read_bytes() == tiny.contents["train-images.gz"]


def test_when_every_source_fails_each_is_named_with_its_reason(tiny, server, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, LocalFolder(Path("/nowhere/at/all")), Address(server.address), CLOSED)
    server.contents.clear()
    (tmp_path / "mine").mkdir()
    with pytest.raises(MetabenchError) as failure:
        fetch(["tiny"], tmp_path / "root", tmp_path / "mine")
    said = str(failure.value)
    assert said.startswith("could not fetch data set 'tiny', no source gave train-images.gz, train-labels.gz, test-im")
    assert f"folder {tmp_path / 'mine'}: train-images.gz is not there" in said
    assert "folder /nowhere/at/all: there is no such folder" in said
    assert f"{server.address}: HTTP 404" in said
    assert "http://127.0.0.1:9/: [Errno" in said
    assert "`metabench fetch tiny --from FOLDER`" in said
    assert names_in(tmp_path / "root" / "tiny") == set()


def test_a_wrong_local_file_is_refused_and_left_where_it_is(tiny, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch)
    source = tiny.write(tmp_path / "mine")
    (source / "train-labels.gz").write_bytes(b"damaged")
    found = hashlib.sha256(b"damaged").hexdigest()
    with pytest.raises(MetabenchError, match=rf"{source}/train-labels.gz has sha256 {found}, expected"):
        fetch(["tiny"], tmp_path / "root", source)
    assert (source / "train-labels.gz").read_bytes() == b"damaged"
    assert "train-labels.gz" not in names_in(tmp_path / "root" / "tiny")


def test_a_damaged_fetched_file_is_moved_aside_when_loaded_and_mended_by_fetching(
    tiny, server, monkeypatch, tmp_path: Path
) -> None:
    tiny.declare(monkeypatch, Address(server.address))
    fetch(["tiny"], tmp_path)
    path = tmp_path / "tiny" / "train-images.gz"
    damaged = path.read_bytes()[:-9]
    path.write_bytes(damaged)
    found = hashlib.sha256(damaged).hexdigest()
    aside = path.with_name(f"train-images.gz.corrupt-{found[:8]}")
    assert not is_available("tiny", tmp_path)
    with pytest.raises(MetabenchError) as failure:
        load("tiny", tmp_path)
    for part in (str(path), card("tiny").files[0].sha256, found, aside.name, "run `metabench fetch tiny`"):
        assert part in str(failure.value)
    assert aside.read_bytes() == damaged and not path.exists()
    fetch(["tiny"], tmp_path)
    assert isinstance(load("tiny", tmp_path), Classification)


def test_fetching_finds_a_damaged_file_of_the_right_size(tiny, server, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, Address(server.address))
    fetch(["tiny"], tmp_path)
    path = tmp_path / "tiny" / "test-images.gz"
    damaged = path.read_bytes()[:-1] + b"?"
    path.write_bytes(damaged)
    (fetched,) = fetch(["tiny"], tmp_path)
    assert [aside.read_bytes() for aside in fetched.kept_aside] == [damaged]
    assert path.read_bytes() == tiny.contents["test-images.gz"]


def test_two_fetches_at_once_download_once(tiny, server, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, Address(server.address))
    threads = [threading.Thread(target=fetch, args=(["tiny"], tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 4
    assert isinstance(load("tiny", tmp_path), Classification)


def test_sets_that_are_here_already_need_nothing(tmp_path: Path) -> None:
    done = fetch(["fashion_mnist_10k", "digits", "analytic"], tmp_path / "root")
    assert [(one.name, one.sources) for one in done] == [("fashion_mnist_10k", ()), ("digits", ()), ("analytic", ())]
    assert not (tmp_path / "root").exists()


def test_mistakes_are_found_before_anything_is_fetched(tiny, server, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, Address(server.address))
    with pytest.raises(MetabenchError, match="unknown data set 'tinny': did you mean 'tiny'"):
        fetch(["tiny", "tinny"], tmp_path)
    with pytest.raises(MetabenchError, match=r"'.*absent' is not a folder"):
        fetch(["tiny"], tmp_path, tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(MetabenchError, match=r"cannot write .*file/tiny: "):
        fetch(["tiny"], tmp_path / "file")
    assert server.asked == []
