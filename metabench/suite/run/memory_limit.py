"""How much memory a job may take, how much a process took, and whether the kernel killed any for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEAR = 0.8
"""A process that took this share of its limit, when last seen, may have been killed for more."""

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Killed:
    """What is known of a process that SIGKILL ended: the status of its rows, and why, in words."""

    status: str
    words: str


def killed_for_memory(peak: int, limit: int, kills_before: int) -> Killed:
    """Return what ended a process that took `peak` bytes at most of a `limit`, and before which the kernel had killed that many."""
    took = f"it had taken {gib(peak)} of the {gib(limit)} that it may"
    if oom_kills() > kills_before:
        return Killed("oom", f"the process was killed (SIGKILL) and the kernel says that memory ran out; {took}")
    if limit and peak >= NEAR * limit:
        return Killed("oom", f"the process was killed (SIGKILL) for memory: {took}")
    return Killed("error", f"the process was killed (SIGKILL), not for memory as far as is known: {took}; the next run tries again, once")


def gib(number: int) -> str:
    """Return bytes in words."""
    return f"{number / 2**30:.2g} GiB"


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory since this machine's boot; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0


def limit_bytes(asked: int = 0) -> int:
    """Return the memory that this process's job may take: the least of its control groups', the machine's, and what was `asked` for."""
    limits = [asked] if asked else []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limits += _group_limits()
    return min(limits, default=0)


def resident_bytes(pid: int) -> int:
    """Return the most resident memory that a process took so far; 0 where it is gone or the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _group_limits() -> Iterator[int]:
    """Yield the limits of the control groups that this process is in, and of those around them; version 2 and version 1."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (_CGROUPS / "memory", "memory.limit_in_bytes") if controllers else (_CGROUPS, "memory.max")
        place = root / name.lstrip("/")
        for folder in (place, *place.parents):
            with contextlib.suppress(OSError, ValueError):
                yield int((folder / file).read_text(encoding="ascii"))
            if folder == root:
                break
