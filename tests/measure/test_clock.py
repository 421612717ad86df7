"""Timing counts what it says and no more; a deadline ends what runs too long."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from metabench.core.errors import MetabenchError, TimeLimit
from metabench.measure import clock
from metabench.measure.clock import Stopwatch, deadline, pin_threads, time_call


class Call:
    """Counts how often it is called; the first time takes longer."""

    def __init__(self, first: float = 0.0, later: float = 0.0) -> None:
        self.count = 0
        self.first, self.later = first, later

    def __call__(self) -> None:
        self.count += 1
        time.sleep(self.first if self.count == 1 else self.later)


def spin() -> None:
    while True:
        time.sleep(0.001)


@pytest.fixture
def alarm() -> Iterator[list[int]]:
    """A handler of SIGALRM that was there before, and the signals it gets."""
    got: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: got.append(number))
    yield got
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_the_first_call_does_not_count() -> None:
    call = Call(first=0.1)
    timing = time_call(call, "cpu", repeats=7, budget_s=100)
    assert (timing.repeats, call.count) == (7, 8)
    assert timing.q1_s <= timing.median_s <= timing.q3_s < 0.05


@pytest.mark.parametrize(("repeats", "expected"), [(100, 3), (3, 3), (2, 2), (1, 1)])
def test_a_spent_budget_leaves_the_fewest_repeats(repeats: int, expected: int) -> None:
    call = Call()
    assert time_call(call, "cpu", repeats=repeats, budget_s=0).repeats == expected
    assert call.count == 1 + expected


def test_the_budget_ends_the_repeats() -> None:
    assert time_call(Call(later=0.02), "cpu", repeats=1000, budget_s=0.2).repeats < 15


def test_the_collector_rests_during_calls_and_the_result_is_released() -> None:
    states, made = [], []

    def call() -> torch.Tensor:
        states.append(gc.isenabled())
        made.append(torch.ones(3))
        return made[-1]

    time_call(call, "cpu", repeats=3, budget_s=1)
    assert states == [False] * 4
    assert gc.isenabled()


def test_a_timing_needs_a_repeat_and_a_device() -> None:
    with pytest.raises(ValueError, match="repeats is 0"):
        time_call(Call(), "cpu", repeats=0, budget_s=1)
    with pytest.raises(MetabenchError, match="unknown device 'tpu'"):
        time_call(Call(), "tpu", repeats=1, budget_s=1)


def test_a_stopwatch_adds_up_its_laps_only() -> None:
    whole, part = Stopwatch(), Stopwatch()
    with whole:
        for _ in range(3):
            time.sleep(0.01)
            with part:
                time.sleep(0.01)
        with contextlib.suppress(KeyError), part:
            raise KeyError
    assert 0.2 < part.seconds / whole.seconds < 0.8


def test_a_stopwatch_does_not_nest() -> None:
    watch = Stopwatch()
    with watch, pytest.raises(RuntimeError, match="is already running"):
        watch.__enter__()
    with pytest.raises(RuntimeError, match="was not running"):
        watch.__exit__(None, None, None)


def test_a_deadline_ends_what_runs_too_long() -> None:
    with pytest.raises(TimeLimit, match=r"passed the time limit of 0\.05 s"), deadline(0.05):
        spin()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_deadline_that_is_kept_leaves_no_trace(alarm: list[int]) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with deadline(60):
        assert signal.getsignal(signal.SIGALRM) is not handler
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert alarm == []


def test_other_exceptions_pass_through_and_leave_no_trace() -> None:
    with pytest.raises(KeyError), deadline(60), deadline(30):
        raise KeyError
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert clock._deadlines == []


def test_an_inner_deadline_leaves_the_outer_one_in_force() -> None:
    ended = []
    with pytest.raises(TimeLimit, match=r"0\.3 s"), deadline(0.3):
        with pytest.raises(TimeLimit, match=r"0\.02 s"), deadline(0.02):
            spin()
        ended.append("inner")
        with deadline(60):
            spin()
    assert ended == ["inner"]


def test_a_longer_inner_deadline_does_not_put_off_the_outer_one() -> None:
    with pytest.raises(TimeLimit, match=r"0\.05 s"), deadline(0.05), deadline(60):
        spin()


def test_a_deadline_that_was_swallowed_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "REMINDER_S", 0.02)
    swallowed = 0
    with pytest.raises(TimeLimit, match=r"0\.02 s"), deadline(0.02):
        while swallowed < 3:
            try:
                spin()
            except TimeLimit:
                swallowed += 1
    assert swallowed == 3


def test_a_timer_that_was_there_before_is_put_back(alarm: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 100)
    with deadline(50):
        time.sleep(0.01)
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    assert 50 < left < 100
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    with deadline(50):
        time.sleep(0.05)
        assert alarm == []
    time.sleep(0.05)
    assert alarm == [signal.SIGALRM]


def test_deadlines_that_pass_while_others_are_set_or_lifted_leave_no_trace() -> None:
    draw = random.Random(0)
    handler = signal.getsignal(signal.SIGALRM)
    passed = 0
    for _ in range(500):
        try:
            with deadline(draw.uniform(2e-4, 3e-3)), deadline(draw.uniform(2e-4, 3e-3)):
                until = time.perf_counter() + draw.uniform(0, 3e-3)
                while time.perf_counter() < until:
                    pass
        except TimeLimit:
            passed += 1
        assert clock._deadlines == []
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        assert signal.getsignal(signal.SIGALRM) is handler
    assert passed > 0


def test_a_deadline_belongs_to_the_main_thread() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            with deadline(1):
                pass
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread only" in str(caught[0])


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_time_left_is_a_passed_limit(seconds: float) -> None:
    with pytest.raises(TimeLimit, match="no time is left"), deadline(seconds):
        raise AssertionError("the block was entered")


def test_pinned_threads_are_what_torch_uses() -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            pin_threads(count)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="threads is 0"):
        pin_threads(0)
