"""Rounds: in each, every cell has one turn, in an order that is redrawn; only one of them computes at any time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from metabench.results.times import Line
from metabench.suite.rounds.member import Answer, Member

LEAST_ROUNDS = 5
"""Rounds that are never cut short, whatever they cost."""

Turn = Callable[[Member], Answer]


def take_turns(
    members: Sequence[Member],
    turn: Turn,
    clock: Callable[[], float],
    *,
    rounds: int,
    budget_s: float,
    order: random.Random,
) -> list[tuple[Member, Line]]:
    """Return what each member's turns took, a line per member and round; one that fails has a line that says why, and no turn after it.

    There are `rounds`, or fewer where turns have taken `budget_s` seconds of `clock` together: never fewer than `LEAST_ROUNDS` then.
    """
    lines: list[tuple[Member, Line]] = []
    left, begun = list(members), clock()
    for number in range(rounds):
        if not left or (number >= LEAST_ROUNDS and clock() - begun >= budget_s):
            break
        for place, member in enumerate(order.sample(left, len(left))):
            answer = turn(member)
            if "failed" in answer:
                left.remove(member)
                lines.append((member, not_timed(answer["failed"])))
            else:
                lines.append((member, _line(number, place, answer)))
    return lines


def not_timed(reason: str) -> Line:
    """Return what a line says of a cell that is not timed."""
    return {"message": f"not timed: {reason}"}


def _line(number: int, place: int, answer: Answer) -> Line:
    values: dict[str, Any] = {name: answer[name] for name in ("seconds", "calls")}
    return {"round": number, "order": place, "started_at": datetime.fromtimestamp(answer["started_at"], UTC), **values}
