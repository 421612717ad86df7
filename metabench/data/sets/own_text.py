"""The user's own text as a data set: "text:PATH" names a file, or a folder of .txt files, each a domain by its stem."""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.data.contract import DataFile, Dataset, DatasetCard, Domains, Read, Text
from metabench.data.fetch.files import content_sha256
from metabench.data.text.spans import spans

PREFIX = "text:"

SHORTEST = 10_000
"""Fewest bytes of a file: its validation and test spans are a twentieth of it each."""


def is_own_text(name: str) -> bool:
    """Tell whether the name of a data set denotes a user's own text."""
    return name.startswith(PREFIX)


def own_text(name: str) -> Dataset:
    """Return the data set "text:PATH"; a relative PATH starts at the folder that metabench is run in, ~ is the home.

    A file loads as `Text`, a folder as `Domains` of its .txt files in alphabetical order. Each file is cut into
    consecutive spans: the last twentieth is the test, the one before the validation, the rest is the training span.
    Bytes are used as they are, in any encoding.

    Raises:
        MetabenchError: there is no such file or folder; it cannot be read; a file has fewer than SHORTEST bytes; a folder
            has fewer than two .txt files.
    """
    paths = _paths(name)
    files = tuple(_described(path) for path in paths)
    in_spans = [_sizes(file.size) for file in files]
    given = name.removeprefix(PREFIX)
    card = DatasetCard(
        name=name,
        title=f"Own text {Path(given).name}",
        task="text",
        licence="the user's own",
        attribution="",
        source=given,
        citation="",
        sizes={span: sum(sizes[span] for sizes in in_spans) for span in ("train", "valid", "test")},
        domains=tuple(path.stem for path in paths) if _place(name).is_dir() else (),
        files=files,
    )
    return Dataset(card, functools.partial(_decode, name), files=tuple(paths))


def dataset_folder(name: str) -> str:
    """Return the name of a data set as one part of a path: its own, or for "text:PATH" a unique one made from PATH."""
    if not is_own_text(name):
        return name
    given = name.removeprefix(PREFIX)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(given).stem).strip("-")[:40]
    return "-".join(filter(None, ("text", stem, hashlib.sha256(given.encode()).hexdigest()[:8])))


def _decode(name: str, read: Read) -> Text | Domains:
    del read  # neither embedded nor fetched
    texts = {}
    for path in _paths(name):
        content = _content(path)
        texts[path.stem] = spans(content, _sizes(_long_enough(path, len(content))), str(path))
    return Domains(texts) if _place(name).is_dir() else next(iter(texts.values()))


def _place(name: str) -> Path:
    given = name.removeprefix(PREFIX)
    if not given.strip():
        raise MetabenchError(
            f"data set '{name}': expected {PREFIX}PATH, the path of a file or of a folder of .txt files"
        )
    try:
        return Path(given).expanduser()
    except RuntimeError as error:  # the home of a user that there is not
        raise MetabenchError(f"data set '{name}': {error}") from error


def _paths(name: str) -> list[Path]:
    place = _place(name)
    try:
        if place.is_file():
            return [place]
        if not place.is_dir():
            raise MetabenchError(f"data set '{name}': {_missing(place)}")
        found = sorted(path for path in place.iterdir() if path.suffix == ".txt" and path.is_file())
    except OSError as error:
        raise MetabenchError(f"data set '{name}': cannot read {place}: {error.strerror}") from error
    if len(found) < 2:
        one = f"; for one text, name the file: {PREFIX}{found[0]}" if found else ""
        raise MetabenchError(
            f"data set '{name}': a folder gives one domain for each .txt file in it, at least two; found {len(found)}{one}"
        )
    return found


def _missing(place: Path) -> str:
    if place.exists():
        return f"{place} is neither a file nor a folder"
    siblings = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, siblings, n=1)
    return f"there is no file or folder {place}" + (f": did you mean '{place.with_name(near[0])}'?" if near else "")


def _described(path: Path) -> DataFile:
    try:
        facts = path.stat()
        _long_enough(path, facts.st_size)
        return DataFile(path.name, facts.st_size, content_sha256(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> MetabenchError:
    return MetabenchError(f"cannot read {path}: {error.strerror or error}")


def _long_enough(path: Path, size: int) -> int:
    if size < SHORTEST:
        raise MetabenchError(
            f"{path} is {'empty' if size == 0 else f'too short, {size:,} bytes'}: a text needs at least {SHORTEST:,}, a "
            f"twentieth of it for validation and one for the test"
        )
    return size


def _sizes(size: int) -> dict[str, int]:
    held_out = size // 20
    return {"train": size - 2 * held_out, "valid": held_out, "test": held_out}
