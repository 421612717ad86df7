"""Fetching the data sets that do not ship with the package."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.core.types import Progress
from metabench.data.contract import DataFile, Dataset, Run, Source
from metabench.data.fetch.download import SourceFailed
from metabench.data.fetch.files import EMBEDDED, folder_of, is_whole, set_aside, sha256_of, unwritable
from metabench.data.fetch.packages import run_command
from metabench.data.fetch.sources import LocalFolder
from metabench.data.registry import dataset


@dataclass(frozen=True)
class Fetched:
    """The result of fetching one data set.

    `folder` holds its files, None if it has none; `sources` are the sources used this time, none if all files were
    there; `kept_aside` are damaged files that were moved out of the way.
    """

    name: str
    folder: Path | None
    sources: tuple[str, ...] = ()
    kept_aside: tuple[Path, ...] = ()


def fetch(
    names: Iterable[str],
    root: Path | None = None,
    source: Path | None = None,
    *,
    progress: Progress | None = None,
    run: Run = run_command,
    plugins: Iterable[Path] = (),
) -> list[Fetched]:
    """Fetch the files of the named data sets into `root`, by default `files.data_root()`, each checked by its sha256.

    `plugins` are Python files that may declare some of them. Files that are there and right are kept. The others are taken from the
    folder `source`, if given, then from the data set's own sources in order. Sets that ship with the package or come from a library
    need no fetching. All names are checked before anything is fetched, and one set that fails does not stop the others.

    Raises:
        MetabenchError: an unknown name, a `source` that is not a folder, or a folder that cannot be written; a set that could not be
            fetched, with every source and why it failed.
    """
    wanted = [dataset(name, plugins) for name in dict.fromkeys(names)]
    if source is not None and not Path(source).is_dir():
        raise MetabenchError(f"the source of data '{source}' is not a folder")
    done: list[Fetched] = []
    failures: list[str] = []
    for chosen in wanted:
        try:
            done.append(_fetch_one(chosen, root, source, progress or _silent, run))
        except _NoSource as failure:
            failures.append(str(failure))
    if failures:
        raise MetabenchError("\n".join(failures))
    return done


class _NoSource(Exception):
    """Every source of a data set failed."""


def _fetch_one(chosen: Dataset, root: Path | None, source: Path | None, progress: Progress, run: Run) -> Fetched:
    card = chosen.card
    if not card.fetched:
        return Fetched(card.name, EMBEDDED / card.name if card.embedded else None)
    folder = folder_of(card, root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    with _alone(folder):
        aside = _clear_damaged(card.files, folder)
        sources: list[Source] = [LocalFolder(Path(source))] if source is not None else []
        sources += chosen.sources
        gave: list[str] = []
        reasons: list[str] = []
        for place in sources:
            missing = _missing(card.files, folder)
            if not missing:
                break
            try:
                place.supply(missing, folder, progress, run)
            except SourceFailed as failure:
                reasons.append(f"  {place.title}: {failure}")
            if len(_missing(card.files, folder)) < len(missing):
                gave.append(place.title)
        if missing := _missing(card.files, folder):
            raise _NoSource(
                f"could not fetch data set '{card.name}', no source gave {', '.join(file.name for file in missing)}:\n"
                + "\n".join(reasons)
                + "\n  With the files in your own folder: "
                + f"`metabench fetch {card.name} --from FOLDER`"
            )
    return Fetched(card.name, folder, tuple(gave), aside)


def _missing(files: Sequence[DataFile], folder: Path) -> list[DataFile]:
    return [file for file in files if not (folder / file.name).exists()]


def _clear_damaged(files: Sequence[DataFile], folder: Path) -> tuple[Path, ...]:
    paths = [(folder / file.name, file) for file in files if (folder / file.name).exists()]
    return tuple(set_aside(path, sha256_of(path)) for path, file in paths if not is_whole(path, file))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: of two processes that fetch the same set, the second waits and finds the files."""
    try:
        import fcntl
    except ImportError:  # not a Unix: two processes at once may then cost a download, never a wrong file
        yield
        return
    try:
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise unwritable(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Some cluster file systems have no locks; what is fetched is checked there all the same.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise unwritable(folder, error) from error
        yield


def _silent(what: str, here: int, total: int) -> None:
    del what, here, total
