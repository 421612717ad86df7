"""Files written completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from metabench.core.errors import MetabenchError


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write` with a binary file that becomes `path` only when everything is on disk.

    The folder is created if missing. On any failure `path` keeps its old content, and no other file is left behind.
    Raises MetabenchError for errors of the file system: a full disk, a read-only folder, a file where a folder should be.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise MetabenchError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with its line ends unchanged, completely or not at all. Raises MetabenchError as `write_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content`, completely or not at all. Raises MetabenchError as `write_atomically`."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)


def _umask() -> int:
    """Return the process's umask; mkstemp ignores it, and a result should be readable as any other file is."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
