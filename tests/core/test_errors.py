"""A user's mistake is told apart from the outcome of a cell."""

from __future__ import annotations

import pytest

from metabench.core.errors import Diverged, MetabenchError, OutOfMemory, TimeLimit, Unsupported, unknown


@pytest.mark.parametrize("outcome", [Diverged, OutOfMemory, TimeLimit, Unsupported])
def test_outcomes_of_a_cell_are_not_mistakes_of_the_user(outcome: type[Exception]) -> None:
    assert not issubclass(outcome, MetabenchError)


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    choices = {"unrolled": 1, "mixflow": 2, "none": 3}
    assert str(unknown("method", "unrold", choices)) == "unknown method 'unrold': did you mean 'unrolled'?"
    assert str(unknown("method", "zzz", choices)) == "unknown method 'zzz': known: mixflow, none, unrolled"
    assert str(unknown("method", "zzz", [])) == "unknown method 'zzz': known: none"
