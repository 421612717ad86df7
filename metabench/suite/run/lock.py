"""One process at a time on a row file: a lock beside it, with a heartbeat.

A lock names who holds it and is written anew every few seconds. It is stale, and is taken over, where its process is known to be gone, its
scheduler knows the job as ended, or nothing was written for `STALE_SECONDS` of the watcher's own clock: clocks need not agree. A
process that finds one that is alive waits. Creating a file that must not exist, and renaming, are atomic on network file systems, too.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.suite.run import scheduler
from metabench.suite.run.memory_limit import limit_bytes

BEAT_SECONDS = 10.0
"""Between two heartbeats."""
STALE_SECONDS = 60.0
"""Without a heartbeat, after which a lock is stale."""
RUN = "METABENCH_RUN"
"""The variable in which a run tells its jobs who it is."""
_LOOK_SECONDS = 0.5

Said = dict[str, Any]


def lock_file(out: Path) -> Path:
    """Return the lock of a file that a job makes."""
    return out.with_suffix(".lock")


def read_lock(path: Path) -> Said | None:
    """Return what a lock says, None where there is none; one that was cut short says nothing."""
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


@dataclass
class Lock:
    """A lock that this process holds.

    Attributes:
        path: the file.
        before: what the stale lock said that was taken over; empty where there was none.
        waited: whether another held it when this process came.
        exhausted: whether those before used up all attempts.
        doing: what runs, for `metabench status`: stage, done, total.
        peak_bytes: the most resident memory that the cell's process was seen to take.
    """

    path: Path
    before: Said = field(default_factory=dict)
    waited: bool = False
    exhausted: bool = False
    doing: tuple[str, int, int] = ("", 0, 0)
    peak_bytes: int = 0
    _said: Said = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    @property
    def limit_bytes(self) -> int:
        """The memory that the job may take; 0 where it is not known."""
        return int(self._said.get("limit_bytes", 0))

    @contextlib.contextmanager
    def beating(self, resident: Callable[[], int] = lambda: 0) -> Iterator[None]:
        """Beat in a thread while the block runs. `resident` returns the bytes that are to be watched.

        No process may be forked in the block: a thread runs.
        """
        self._done.clear()
        thread = threading.Thread(target=self._beat, args=(resident,), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _beat(self, resident: Callable[[], int]) -> None:
        # The process's signals are for its main thread: one that reached this thread would not wake that.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        written = 0
        due = time.monotonic() + BEAT_SECONDS
        while not self._done.wait(_LOOK_SECONDS):
            self.peak_bytes = max(self.peak_bytes, resident())
            # How much memory a process took that is killed a moment later is known by what was written before.
            if time.monotonic() >= due or self.peak_bytes > 1.1 * max(written, 2**28):
                written, due = self.peak_bytes, time.monotonic() + BEAT_SECONDS
                self.write()

    def write(self) -> None:
        """Write the lock anew; a disk that refuses is none of its business."""
        stage, done, total = self.doing
        said = self._said | {"stage": stage, "done": done, "total": total, "peak_bytes": self.peak_bytes, "at": time.time()}
        fresh = self.path.with_suffix(".beat")
        with contextlib.suppress(OSError):
            if self._is_own():
                fresh.write_text(json.dumps(said) + "\n", encoding="utf-8")
                fresh.replace(self.path)

    def release(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            if self._is_own():
                self.path.unlink()

    def _is_own(self) -> bool:
        """Tell whether nobody took it over, as from a machine that was asleep."""
        return is_own(read_lock(self.path) or {})


@contextlib.contextmanager
def held(out: Path, tell: Callable[[str], None] = lambda words: None, asked_bytes: int = 0) -> Iterator[Lock]:
    """Hold the lock of `out` while the block runs; wait for its holder. `tell` is called once with who that is.

    `asked_bytes` is the memory that was asked of a scheduler; 0 where none bounds it.

    Raises:
        MetabenchError: the folder cannot be written to.
    """
    path = lock_file(out)
    own = _identity() | {"limit_bytes": limit_bytes(asked_bytes if scheduler.job() else 0)}
    lock = Lock(path, _said=own)
    watched, since = b"", time.monotonic()
    while not _created(path, own):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MetabenchError(f"cannot read '{path}': {error.strerror or error}") from error
        if content != watched:
            watched, since = content, time.monotonic()
        said = read_lock(path) or {}
        if is_stale(said, time.monotonic() - since):
            if _taken(path, content):
                lock.before = said
            continue
        if not lock.waited:
            lock.waited = True
            tell(holder(said))
        time.sleep(_LOOK_SECONDS)
    try:
        # What a kill in the middle of a write left behind: nobody writes here meanwhile.
        for part in out.parent.glob(f".{glob.escape(out.stem)}[.-]*.part"):
            part.unlink(missing_ok=True)
        yield lock
    finally:
        lock.release()


def remove_stale(path: Path) -> bool:
    """Remove a lock that nobody holds; return whether it was there."""
    with contextlib.suppress(OSError):
        return _taken(path, path.read_bytes())
    return False


def is_stale(said: Said, silent: float) -> bool:
    """Tell whether nobody holds a lock that says `said` and was not written for `silent` seconds."""
    if silent > STALE_SECONDS:
        return True
    if said.get("machine") == machine():
        return not _alive(int(said.get("pid", 0)), str(said.get("born", "")))
    if job := str(said.get("job", "")):
        return scheduler.ended(job)
    return False


def is_own(said: Said) -> bool:
    """Tell whether this process holds a lock that says `said`."""
    pid = os.getpid()
    return (said.get("machine"), said.get("pid"), said.get("born")) == (machine(), pid, _born(pid))


def run_identity() -> str:
    """Return what names this process as the run that starts jobs, for the variable `RUN` of their environment."""
    return json.dumps({"machine": machine(), "pid": os.getpid(), "born": _born(os.getpid())})


def is_abandoned(said: Said) -> bool:
    """Tell whether the run that started the holder of a lock is known to be gone: it ran on this machine, and runs no more."""
    try:
        run = json.loads(said.get("run") or "{}")
    except ValueError:
        return False
    return run.get("machine") == machine() and not _alive(int(run.get("pid", 0)), str(run.get("born", "")))


def holder(said: Said) -> str:
    """Return who holds a lock, in words."""
    job = f"job {said['job']} " if said.get("job") else ""
    return f"{job}on {said.get('host', 'an unknown machine')}, process {said.get('pid', '?')}"


def machine() -> str:
    """Return what tells apart machines, their boots, and containers on one: process ids are unique within."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _identity() -> Said:
    return {
        "job": scheduler.job(),
        "host": scheduler.host(),
        "machine": machine(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "since": time.time(),
        "run": os.environ.get(RUN, ""),
    }


def _created(path: Path, said: Said) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
    except FileExistsError:
        return False
    except OSError as error:
        raise MetabenchError(f"cannot write into '{path.parent}': {error.strerror or error}") from error
    return True


def _taken(path: Path, content: bytes) -> bool:
    """Remove a stale lock of this content; return whether it was this process that did."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):
        if aside.read_bytes() == content:
            aside.unlink()
            return True
        # Another was faster, and this is its lock.
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    return False


def _alive(pid: int, born: str) -> bool:
    return bool(pid) and bool(found := _born(pid)) and (not born or found == born)


def _born(pid: int) -> str:
    """Return when a process of this machine started, in ticks since the boot; empty where there is none. Ids are used again."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if status[0] in "ZX" else status[19]
    except (OSError, IndexError):
        if os.path.isdir("/proc/self"):
            return ""
    with contextlib.suppress(ProcessLookupError):
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
        return "alive"
    return ""
