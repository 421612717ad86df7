"""Asking a process that trains to end: it saves its run between two outer steps first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_asked = False
_saves = 0


class Interrupted(BaseException):
    """The process was asked to end, and what it ran is saved. No failure of a cell: nothing that catches those may take it for one."""


def asked() -> bool:
    """Tell whether the process is to end as soon as its run is saved."""
    return _asked


def heed(number: signal.Signals) -> None:
    """Let a signal ask this process to end: at once, or within `saving` when the run is saved."""
    signal.signal(number, _ask)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within the block, a process that is asked to end goes on until its run is saved: the block looks at `asked` often."""
    global _saves
    _saves += 1
    try:
        yield
    finally:
        _saves -= 1


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if not _saves:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
