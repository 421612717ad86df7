"""Processes that measure: how one settles in, and how its parent is stopped without leaving any behind."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from metabench.measure.kernels import choose_kernels

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_THREAD_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def settle(threads: int, kernels: str, parent: int) -> None:
    """Leave the terminal and its signals to the parent, end with it, and choose threads and kernels before libraries are loaded."""
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    end_with(parent)
    faulthandler.enable(file=sys.__stderr__ or 2)
    use_threads(threads)
    choose_kernels(kernels)


def use_threads(threads: int) -> None:
    """Choose how many threads the pools of libraries have that are loaded from now on."""
    os.environ.update(dict.fromkeys(_THREAD_POOLS, str(threads)))


def ending(exit_code: int) -> tuple[str, str]:
    """Return the status and the message of a process that ended before it was done; negative codes are signals."""
    if exit_code < 0:
        return "error", f"the process was ended by {signal.Signals(-exit_code).name} ({signal.strsignal(-exit_code)})"
    return "error", f"the process exited with status {exit_code} before it was done"


def end_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, however that happens. Elsewhere the closed pipe ends it at its next message."""
    if sys.platform != "linux":
        return
    import ctypes

    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def stopping_signals() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Turn SIGINT, SIGTERM and SIGHUP into SystemExit, but only inside the context manager that this yields.

    Outside it they wait, so that none arrives between the fork and the code that ends the forked process. Ignored signals
    (nohup) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield contextlib.nullcontext
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def unblocked() -> Iterator[None]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, heeded)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
    try:
        for number in heeded:
            signal.signal(number, stop)
        yield unblocked
    finally:
        for number in heeded:
            signal.signal(number, before[number])
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
