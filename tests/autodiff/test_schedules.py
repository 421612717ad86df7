"""Schedules of kept states: what each holds and runs again, and that the binomial one is the best there is."""

from __future__ import annotations

import functools
import math

import pytest

from metabench.autodiff.unrolled.checkpoint_schedules import Schedule, binomial, every_state, spaced, square_root


def reversal(steps: int, schedule: Schedule) -> tuple[int, int]:
    """Return how many steps a reversal of `steps` runs before it pulls each back, and the most states held beside the first at once."""
    kept, runs, most = {0}, 0, 0
    for k in reversed(range(steps)):
        first = max(kept)
        if first < k:
            chosen = set(schedule(first, k, len(kept) - 1))
            assert all(first < state <= k for state in chosen)
            kept |= chosen
            runs += k - first
        most = max(most, len(kept | {k}) - 1)
        kept.discard(k)
    return runs, most


@functools.cache
def fewest(steps: int, checkpoints: int) -> int:
    """Return the fewest runs by dynamic programming: keep the state after m steps, reverse what is behind it, then what is before."""
    if steps == 1:
        return 0
    choices = [m + fewest(steps - m, checkpoints - 1) + fewest(m, checkpoints) for m in range(1, steps) if checkpoints]
    return min([steps * (steps - 1) // 2, *choices])


def closed_form(steps: int, checkpoints: int) -> int:
    """Return r K - binom(s + r, s + 1) with s = checkpoints + 1 and binom(s + r - 1, s) < K <= binom(s + r, s)."""
    held = checkpoints + 1
    repeats = next(r for r in range(steps + 1) if math.comb(held + r, held) >= steps)
    return repeats * steps - math.comb(held + repeats, held + 1)


@pytest.mark.parametrize("checkpoints", range(8))
def test_the_binomial_schedule_runs_the_fewest_steps_that_any_schedule_can(checkpoints: int) -> None:
    for steps in range(1, 61):
        runs, _ = reversal(steps, binomial(checkpoints))
        assert runs == fewest(steps, checkpoints) == closed_form(steps, checkpoints)


@pytest.mark.parametrize(("steps", "checkpoints"), [(1000, 4), (1000, 9), (4096, 12), (715, 8), (716, 8)])
def test_on_long_runs_it_is_the_closed_form(steps: int, checkpoints: int) -> None:
    runs, most = reversal(steps, binomial(checkpoints))
    assert runs == closed_form(steps, checkpoints)
    assert most <= checkpoints + 1


@pytest.mark.parametrize("checkpoints", range(8))
def test_it_holds_its_checkpoints_and_the_state_it_works_on(checkpoints: int) -> None:
    assert all(reversal(steps, binomial(checkpoints))[1] <= checkpoints + 1 for steps in range(1, 61))


@pytest.mark.parametrize("steps", [2, 3, 10, 33])
def test_without_a_checkpoint_every_state_is_run_from_the_start_and_with_enough_none_is_run_twice(steps: int) -> None:
    assert reversal(steps, binomial(0)) == (steps * (steps - 1) // 2, 1)
    assert reversal(steps, binomial(steps - 1))[0] == steps - 1
    assert reversal(steps, every_state) == (steps - 1, steps - 1)


@pytest.mark.parametrize("repeats", [1, 2, 3, 5])
def test_at_a_full_binomial_no_step_is_run_more_than_that_often(repeats: int) -> None:
    checkpoints = 3
    steps = math.comb(checkpoints + 1 + repeats, repeats)
    assert reversal(steps, binomial(checkpoints))[0] <= repeats * steps
    assert reversal(steps + 1, binomial(checkpoints))[0] - reversal(steps, binomial(checkpoints))[0] == repeats + 1


@pytest.mark.parametrize("steps", [*range(1, 40), 97, 100, 101, 1000])
def test_the_square_root_schedule_holds_about_two_square_roots_and_runs_no_step_more_than_twice(steps: int) -> None:
    runs, most = reversal(steps, square_root(steps))
    assert runs <= 2 * steps
    assert most <= 2 * math.ceil(math.sqrt(steps))


@pytest.mark.parametrize("spacing", [1, 2, 3, 7, 50])
def test_a_spacing_keeps_its_multiples_and_then_what_lies_between_two_of_them(spacing: int) -> None:
    keep = spaced(spacing)
    assert list(keep(0, 49, 0)) == [k for k in range(1, 50) if k % spacing == 0 or spacing > 49]
    assert list(keep(7, 7 + spacing - 1, 3)) == list(range(8, 7 + spacing))
