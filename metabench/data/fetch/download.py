"""One file from a URL: resumed where it stopped, checked, and moved into place atomically."""

from __future__ import annotations

import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from metabench.core.types import Progress
from metabench.data.contract import DataFile
from metabench.data.fetch.files import set_aside, sha256_of, unwritable

if TYPE_CHECKING:
    import http.client

_CHUNK = 1 << 18


class SourceFailed(Exception):
    """A source could not provide the file; the message says why."""


def download(url: str, destination: Path, file: DataFile, progress: Progress, timeout: float = 30.0) -> None:
    """Download `file` from `url` to `destination`.

    Received bytes are kept in NAME.part, and the rest is requested with an HTTP range: immediately after a broken
    connection, while every attempt makes progress, and otherwise by the next call. The finished file gets its name only
    when its size and sha256 are right. One with a wrong sha256 is moved to NAME.corrupt-<8 digits>, and requested again
    from the start if it had been resumed. `timeout` is in seconds without a byte. Raises SourceFailed, or MetabenchError
    if the disk cannot be written.
    """
    part = destination.with_name(destination.name + ".part")
    resumed = False
    while True:
        here = _size(part)
        resumed = resumed or here > 0
        while here < file.size:
            broken = _append(url, part, here, file, progress, timeout)
            gained = _size(part) - here
            here = _size(part)
            if here < file.size and gained <= 0:
                raise SourceFailed(f"{broken or 'the connection closed early'} after {here:,} of {file.size:,} bytes")
        found = sha256_of(part)
        if here == file.size and found == file.sha256:
            os.replace(part, destination)
            return
        kept = set_aside(part, found, destination.name)
        if not resumed:
            raise SourceFailed(
                f"{file.name} has the wrong checksum: expected sha256 {file.sha256}, found {found}; kept as {kept.name}"
            )
        resumed = False


def _append(url: str, part: Path, here: int, file: DataFile, progress: Progress, timeout: float) -> str:
    """Add to `part` what one request brings; return what broke the connection, or nothing."""
    # Imported here: listing the data sets loads this module, and urllib.request costs half as much as numpy.
    import http.client
    import urllib.error
    import urllib.request

    headers = {"User-Agent": "metabench"}
    if here:
        headers["Range"] = f"bytes={here}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            start = _start_of(response, here, file)
            with _opened(part, start) as out:
                _copy(response, out, part, start, file, progress)
    except urllib.error.HTTPError as error:
        raise SourceFailed(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return ""


def _start_of(response: http.client.HTTPResponse, here: int, file: DataFile) -> int:
    """Return the offset of the first byte of the response's body; raises SourceFailed if it is not a part of `file`."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        given = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
        if match is None or int(match[1]) != here or match[2] not in ("*", str(file.size)):
            raise SourceFailed(f"expected bytes {here}-{file.size - 1}/{file.size}, the server answers '{given}'")
        return here
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != file.size:
        raise SourceFailed(f"expected {file.size:,} bytes, the server announces {int(length):,}")
    return 0


def _opened(part: Path, start: int) -> BinaryIO:
    try:
        return part.open("ab" if start else "wb")
    except OSError as error:
        raise unwritable(part, error) from error


def _copy(
    response: http.client.HTTPResponse, out: BinaryIO, part: Path, here: int, file: DataFile, progress: Progress
) -> None:
    # One byte more than announced is enough to know that the file is not the right one.
    while here <= file.size:
        chunk = response.read(min(_CHUNK, file.size + 1 - here))
        if not chunk:
            return
        try:
            out.write(chunk)
            out.flush()
        except OSError as error:
            raise unwritable(part, error) from error
        here += len(chunk)
        progress(file.name, min(here, file.size), file.size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
