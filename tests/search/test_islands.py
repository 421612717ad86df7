"""Islands: rounds in files that repeat, the best net moves on for nothing, and what does not belong is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from searching import TINY, Looked

from metabench.core.errors import MetabenchError
from metabench.search.driver import Search
from metabench.search.islands import Round, migrants, read_round, write_round
from metabench.search.strategy import make_strategy

ISLANDS, ROUNDS, BUDGET = 3, 3, 12


def run(of: Round, folder: Path) -> Path:
    """Run one round of an island: its budget grows by a third of the whole each time."""
    fitness = Looked()
    strategy = make_strategy("evolution", TINY, BUDGET, of.seed * 100 + of.island, {"population": 4})
    state = None
    if of.number:
        own, left = of.before(ISLANDS)
        state = read_round(own, folder) | {"told": ""}
    search = Search.of(strategy, fitness, BUDGET * (of.number + 1) // ROUNDS, state)
    if of.number:
        search.receive(migrants(read_round(left, folder), fitness.tasks))
    list(search.run())
    return write_round(of, search, folder)


def archipelago(folder: Path, order: Callable[[list[Round]], list[Round]] = lambda rounds: rounds) -> dict[str, bytes]:
    for number in range(ROUNDS):
        for one in order([Round("test", 0, island, number) for island in range(ISLANDS)]):
            run(one, folder)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("island-*.json"))}


def test_the_result_depends_neither_on_the_order_nor_on_what_was_run_twice(tmp_path: Path) -> None:
    first = archipelago(tmp_path / "first")
    assert first == archipelago(tmp_path / "second", lambda rounds: rounds[::-1])
    assert first == archipelago(tmp_path / "third", lambda rounds: [rounds[1], *rounds, rounds[2]])
    assert len(first) == ISLANDS * ROUNDS


def test_a_migrant_costs_nothing_and_is_known(tmp_path: Path) -> None:
    archipelago(tmp_path)
    before = read_round(Round("test", 0, 0, 0), tmp_path)
    after = read_round(Round("test", 0, 1, 1), tmp_path)
    (best,) = migrants(before, 90)
    own = read_round(Round("test", 0, 1, 0), tmp_path)
    assert best in after["paid"]
    assert (best in after["foreign"]) == (best not in own["paid"])
    assert after["lines"][-1]["spent"] == BUDGET * 2 // ROUNDS
    assert not set(after["foreign"]) & {line["encoding"] for line in after["lines"]}


def test_rounds_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    one = Round("test", 0, 0, 0)
    with pytest.raises(MetabenchError, match="round 0 of island 0 is missing"):
        read_round(one, tmp_path)
    path = run(one, tmp_path)
    for other, said in (
        (Round("test", 7, 0, 0), "is of seed 0, expected 7"),
        (Round("others", 0, 0, 0), "is of search 'test'"),
    ):
        with pytest.raises(MetabenchError, match=said):
            read_round(other, tmp_path)
    path.rename(Round("test", 0, 1, 0).file(tmp_path))
    with pytest.raises(MetabenchError, match="is of island 0, expected 1"):
        read_round(Round("test", 0, 1, 0), tmp_path)
    path.write_bytes(Round("test", 0, 1, 0).file(tmp_path).read_bytes()[:200])
    with pytest.raises(MetabenchError, match="is damaged: remove it"):
        read_round(one, tmp_path)
