"""Debian packages as archives: an ar file that holds a tar file, read without Debian's programs."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

_MAGIC, _HEADER = b"!<arch>\n", 60
_UNPACK: dict[str, Callable[[bytes], bytes]] = {".tar": bytes, ".xz": lzma.decompress, ".gz": gzip.decompress}


def deb_files(archive: bytes) -> dict[str, bytes]:
    """Return the regular files of a Debian package by path, such as 'usr/share/fonts/a.ttf'; see deb(5).

    Raises:
        ValueError: `archive` is no Debian package, is damaged, or its files are compressed with another program than xz or gzip.
    """
    if not archive.startswith(_MAGIC):
        raise ValueError("it is no Debian package")
    start = len(_MAGIC)
    while start + _HEADER <= len(archive):
        header = archive[start : start + _HEADER]
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if not size.isdigit():
            break
        start += _HEADER
        if name.startswith("data.tar"):
            suffix = name[name.rindex(".") :]
            if suffix not in _UNPACK:
                raise ValueError(f"its files are in {name}: expected {', '.join(_UNPACK)}")
            return _regular(_UNPACK[suffix], archive[start : start + int(size)])
        start += int(size) + int(size) % 2
    raise ValueError("it is no Debian package: it has no data.tar")


def _regular(unpack: Callable[[bytes], bytes], packed: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(unpack(packed)), mode="r:") as members:
            for member in members:
                if member.isfile() and (stream := members.extractfile(member)) is not None:
                    found[member.name.removeprefix("./")] = stream.read()
    except (tarfile.TarError, lzma.LZMAError, OSError, EOFError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    return found
