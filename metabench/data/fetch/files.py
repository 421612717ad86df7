"""Where data set files are stored, and how they are checked before use."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.data.contract import DataFile, DatasetCard

EMBEDDED = Path(__file__).parents[1] / "embedded"


def data_root() -> Path:
    """Return the folder of fetched data: $METABENCH_DATA, else $XDG_CACHE_HOME/metabench, else ~/.cache/metabench."""
    if chosen := os.environ.get("METABENCH_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "metabench"


def folder_of(card: DatasetCard, root: Path | None) -> Path:
    """Return the folder that holds the files of a data set; `root` is that of fetched data, else `data_root()`."""
    if card.embedded:
        return EMBEDDED / card.name
    return (data_root() if root is None else Path(root)) / card.name


def path_of(card: DatasetCard, file: DataFile, root: Path | None = None) -> Path:
    """Return the path of a data set's file, whether or not it exists; `root` as in `folder_of`."""
    folder = folder_of(card, root)
    return (folder.parent / file.belongs_to if file.belongs_to else folder) / file.name


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """Return the sha256 of a file as it is now, in hexadecimal; a file that has not changed is read once per process."""
    facts = path.stat()
    return _sha256_then(path.resolve(), facts.st_size, facts.st_mtime_ns)


@functools.cache
def _sha256_then(path: Path, size: int, changed: int) -> str:
    del size, changed
    return sha256_of(path)


def is_whole(path: Path, file: DataFile) -> bool:
    """Tell whether `path` exists and is `file`, to the byte."""
    return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256


def set_aside(path: Path, found: str, name: str | None = None) -> Path:
    """Move a damaged file to NAME.corrupt-<first 8 digits of its sha256 `found`> in its folder; return the new path."""
    aside = path.with_name(f"{name or path.name}.corrupt-{found[:8]}")
    os.replace(path, aside)
    return aside


def unwritable(path: Path, error: OSError) -> MetabenchError:
    """Return the error for a path that cannot be written, with the system's reason."""
    return MetabenchError(f"cannot write {path}: {error.strerror or error}")


def read_verified(card: DatasetCard, name: str, root: Path | None = None) -> bytes:
    """Return the bytes of file `name` of a data set, once its sha256 is what the card says.

    Raises MetabenchError if the file is missing, naming the command that fetches it, or damaged, naming the file and
    both checksums. A damaged fetched file is moved aside first, never deleted; a damaged embedded one is left in
    place.
    """
    file = next(file for file in card.files if file.name == name)
    path = path_of(card, file, root)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        if card.embedded:
            raise MetabenchError(f"{path} ships with metabench and is missing: reinstall metabench") from error
        raise MetabenchError(
            f"data set '{card.name}' has not been fetched ({path} is missing): run `metabench fetch {card.name}`"
        ) from error
    except OSError as error:
        raise MetabenchError(f"cannot read {path}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found == file.sha256:
        return content
    damage = (
        f"{path} is damaged: expected sha256 {file.sha256} ({file.size} bytes), found {found} ({len(content)} bytes)"
    )
    if card.embedded:
        raise MetabenchError(f"{damage}; it ships with metabench: reinstall metabench")
    try:
        kept = f"moved aside to {set_aside(path, found).name}"
    except OSError as error:
        kept = f"it could not be moved aside ({error.strerror})"
    raise MetabenchError(f"{damage}; {kept}; run `metabench fetch {card.name}`")
