"""Debian, npm and Python packages as carriers of data: downloaded by their own programs, unpacked without installing."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import urllib.parse
import zipfile
from collections.abc import Sequence
from pathlib import Path

from metabench.data.contract import Run
from metabench.data.fetch.download import SourceFailed
from metabench.data.fetch.files import sha256_of


def run_command(command: Sequence[str], folder: Path) -> None:
    """Run `command` in `folder`; raises SourceFailed with its last words if it fails or is not installed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SourceFailed(f"the program {command[0]} is not installed") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = said[-1].strip() if said else "it said nothing"
        raise SourceFailed(f"`{' '.join(command)}` ended with {done.returncode}: {reason}")


def debian_package(package: str, workspace: Path, run: Run, version: str = "", sha256: str = "") -> Path:
    """Download a Debian package into `workspace` and unpack it there; return the folder of its root.

    Without a `version`, the one of the machine's release. Raises SourceFailed.
    """
    run(["apt-get", "-qq", "download", f"{package}={version}" if version else package], workspace)
    pattern = f"{package}_{urllib.parse.quote(version, safe='~+').replace('%3A', '%3a') if version else '*'}_*.deb"
    archive = _the_only(workspace, pattern)
    _check(archive, sha256)
    unpacked = workspace / f"{package}.unpacked"
    run(["dpkg-deb", "--extract", str(archive), str(unpacked)], workspace)
    return unpacked


def npm_package(package: str, version: str, sha256: str, workspace: Path, run: Run) -> dict[str, bytes]:
    """Download an npm package into `workspace`; return its regular files by path. Raises SourceFailed."""
    run(["npm", "pack", "--silent", f"{package}@{version}"], workspace)
    archive = _the_only(workspace, f"{package}-{version}.tgz")
    _check(archive, sha256)
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes()), mode="r:gz") as members:
        for member in members:
            if (stream := members.extractfile(member)) is not None:
                contents[member.name] = stream.read()
    return contents


def python_package(package: str, version: str, sha256: str, workspace: Path, run: Run) -> dict[str, bytes]:
    """Download the wheel of a Python package for CPython 3.11 on x86-64 Linux into `workspace`; return its files by path.

    It is read, never installed, so that it may be for another machine. Raises SourceFailed.
    """
    platforms = [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in (28, 27)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *platforms]
    run([sys.executable, "-m", "pip", "download", "--quiet", *options, f"{package}=={version}"], workspace)
    archive = _the_only(workspace, f"{package.replace('-', '_')}-{version}-*.whl")
    _check(archive, sha256)
    with zipfile.ZipFile(archive) as members:
        return {name: members.read(name) for name in members.namelist()}


def _the_only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceFailed(f"expected one file {pattern} after the download, found {len(found)}")
    return found[0]


def _check(archive: Path, sha256: str) -> None:
    if sha256 and (found := sha256_of(archive)) != sha256:
        raise SourceFailed(f"{archive.name} has the wrong checksum: expected sha256 {sha256}, found {found}")
