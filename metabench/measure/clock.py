"""Time: of a call, of parts of a run, and time limits."""

from __future__ import annotations

import gc
import signal
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from metabench.core.errors import TimeLimit
from metabench.core.lazy import torch
from metabench.measure.device import measured_device, synchronise

REMINDER_S = 10.0
"""Seconds after a deadline until it is raised again, in case other code swallowed the first."""

SOON_S = 1e-3


@dataclass(frozen=True)
class Timing:
    """Seconds per call: median and quartiles over `repeats` timed ones, the first call left out."""

    median_s: float
    q1_s: float
    q3_s: float
    repeats: int


def time_call(
    call: Callable[[], Any], device: str | torch.device, *, repeats: int, budget_s: float, min_repeats: int = 3
) -> Timing:
    """Time `call`: one first run, then up to `repeats` timed runs, synchronising the device around each.

    Stops when all runs together have taken `budget_s` seconds, but not before `min_repeats` timed ones (or `repeats`,
    if that is fewer). Python's cyclic collector is off during a timed call. Releasing a call's result is not
    timed. Raises ValueError if `repeats` is not positive, and whatever the call raises.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: a timing takes at least one")
    place = measured_device(device)
    gc.collect()
    spent = _seconds(call, place)
    seconds: list[float] = []
    while len(seconds) < repeats and (len(seconds) < min_repeats or spent < budget_s):
        seconds.append(_seconds(call, place))
        spent += seconds[-1]
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Timing(median, lower, upper, len(seconds))


def time_turn(call: Callable[[], Any], device: str | torch.device, *, at_least_s: float) -> tuple[float, int]:
    """Time `call` until all runs together have taken `at_least_s` seconds, at least once: the median, and the number of runs.

    The median, so that a call that the system interrupts does not count for many. Each run is timed as in `time_call`.
    """
    place = measured_device(device)
    seconds = [_seconds(call, place)]
    while sum(seconds) < at_least_s:
        seconds.append(_seconds(call, place))
    return statistics.median(seconds), len(seconds)


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    was_on = gc.isenabled()
    gc.disable()
    try:
        synchronise(device)
        begun = time.perf_counter()
        result = call()
        synchronise(device)
        taken = time.perf_counter() - begun
        del result
        return taken
    finally:
        if was_on:
            gc.enable()


class Stopwatch:
    """Adds the seconds spent inside its `with` blocks, which do not nest, to `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._begun: float | None = None

    def __enter__(self) -> Stopwatch:
        if self._begun is not None:
            raise RuntimeError("the stopwatch is already running: its blocks do not nest")
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._begun is None:
            raise RuntimeError("the stopwatch was not running")
        self.seconds += time.perf_counter() - self._begun
        self._begun = None


class deadline:
    """Raises TimeLimit in its `with` block once the block has run for `seconds`.

    Blocks nest; the earliest deadline ends first. Uses SIGALRM, so it works only in the main thread (RuntimeError
    elsewhere), and takes effect when control returns to Python: one long operation of torch finishes first. A
    previous handler and timer are restored, less the time that has passed.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.due = 0.0
        self.called = False

    def __enter__(self) -> deadline:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a deadline can be set in the main thread only: signals are delivered there")
        if self.seconds <= 0:
            raise TimeLimit(f"no time is left: the limit is {self.seconds:g} s")
        self._begun = time.monotonic()
        self.due = self._begun + self.seconds
        if not _deadlines:
            self._foreign_timer = signal.setitimer(signal.ITIMER_REAL, 0)
            self._foreign_handler = signal.signal(signal.SIGALRM, _call_deadline)
        _deadlines.append(self)
        _arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # In this order: with no deadline left, the handler sets no timer, so that none outlives it.
        _deadlines.remove(self)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _deadlines:
            _arm()
        else:
            if self._foreign_handler is not None:
                signal.signal(signal.SIGALRM, self._foreign_handler)
            left, interval = self._foreign_timer
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - self._begun), SOON_S), interval)
        if self.called and kind is None:
            raise TimeLimit(self.message)

    @property
    def message(self) -> str:
        """The message of the time limit's error."""
        return f"passed the time limit of {self.seconds:g} s"


_deadlines: list[deadline] = []


def _call_deadline(number: int, frame: FrameType | None) -> None:
    if not _deadlines:
        return
    due = next((one for one in _deadlines if one.due <= time.monotonic()), None)
    if due is None:
        _arm()
    elif _is_changing(frame):
        signal.setitimer(signal.ITIMER_REAL, SOON_S)
    else:
        due.called = True
        signal.setitimer(signal.ITIMER_REAL, REMINDER_S)
        raise TimeLimit(due.message)


def _is_changing(frame: FrameType | None) -> bool:
    """Return whether a deadline is being set or lifted: an exception would leave that half done, a moment later it will not."""
    while frame is not None:
        if frame.f_code in (deadline.__enter__.__code__, deadline.__exit__.__code__):
            return True
        # The body of a block is never called from these two, what they call is one of this module's few functions.
        frame = frame.f_back if frame.f_globals is globals() else None
    return False


def _arm() -> None:
    """Set the timer to the deadline that is due first."""
    waiting = min(one.due for one in _deadlines) - time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, max(waiting, SOON_S))


def pin_threads(count: int) -> None:
    """Let torch use `count` threads within an operation and one between operations.

    torch accepts the number between operations once per process, before its first parallel work; later calls keep it.
    Raises ValueError if `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"threads is {count}: torch needs at least one")
    torch.set_num_threads(count)
    # torch refuses a second time, and has no question to ask beforehand.
    with suppress(RuntimeError):
        torch.set_num_interop_threads(1)
