"""One process at a time on a CUDA device: a lock per device, in a folder that all users of the machine share.

A lock is the kernel's (flock): it is free as soon as the last process that holds it is gone, however it ended. A process that was forked
holds it too. Where no device is known nothing is locked, and nothing fails.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from metabench.core.errors import MetabenchError
from metabench.measure.gpu import VISIBLE, Gpu, visible_gpus

FOLDER = "METABENCH_GPU_LOCKS"
"""The variable that names another folder of locks."""
_PLACES = (Path("/tmp/metabench-gpus"), Path(f"/tmp/metabench-gpus-{os.getuid()}"))
"""The same for everybody, unlike the folder of TMPDIR; a user's own where another user's is closed."""
_LOOK_SECONDS = 0.5

_held: dict[str, int] = {}
"""The locks of this process, by device: file descriptors, which processes that it forks have, too."""


def _ignore(words: str) -> None:
    del words


@contextlib.contextmanager
def own_device(device: str, tell: Callable[[str], None] = _ignore, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Gpu | None]:
    """Have a CUDA device to itself while the block runs, which is all that CUDA shows to this process and to those that it starts.

    CUDA must not have been started in this process before. Where all devices are taken it waits: `tell` is called once with why, and
    `meanwhile` at every look. None is yielded for other devices than 'cuda', where none is known, and within another such block.

    Raises MetabenchError where no folder takes the locks.
    """
    if device != "cuda":
        yield None
        return
    found = visible_gpus()
    if not found or any(one.uuid in _held for one in found):
        yield None
        return
    gpu, lock = _first_free(found, tell, meanwhile)
    before = os.environ.get(VISIBLE)
    _held[gpu.uuid] = lock
    os.environ[VISIBLE] = gpu.uuid
    try:
        yield gpu
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        os.close(_held.pop(gpu.uuid))


def _first_free(found: list[Gpu], tell: Callable[[str], None], meanwhile: Callable[[], None]) -> tuple[Gpu, int]:
    told = False
    while True:
        for gpu in found:
            lock = _taken(gpu)
            if lock is not None:
                return gpu, lock
        if not told:
            told = True
            names = ", ".join(one.index for one in found)
            tell(f"waiting for a GPU: other processes have {names}")
        meanwhile()
        time.sleep(_LOOK_SECONDS)


def _taken(gpu: Gpu) -> int | None:
    """Take the lock of a device and return its file; None where another process has it."""
    lock = _opened(re.sub(r"[^\w-]", "_", gpu.uuid) + ".lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise MetabenchError(f"the lock of a GPU cannot be taken: {error.strerror or error}") from error
    return lock


def _opened(name: str) -> int:
    """Return the open file of a lock; it is made where it is missing, in the first folder that can be used."""
    said: OSError | None = None
    for folder in [Path(os.environ[FOLDER])] if os.environ.get(FOLDER) else _PLACES:
        try:
            return _opened_in(folder, name)
        except OSError as error:
            said = error
    assert said is not None
    raise MetabenchError(
        f"the lock of a GPU cannot be opened: {said.strerror or said}: '{said.filename}'; name another folder in {FOLDER}"
    ) from said


def _opened_in(folder: Path, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    path = folder / name
    # Not made where it is there: Linux refuses O_CREAT of another user's file in a folder for all.
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with contextlib.suppress(FileExistsError):
        lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        os.fchmod(lock, 0o644)
        return lock
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
