"""Islands: rounds in files that repeat, the best net moves on for nothing, and what does not belong is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from searching import TINY, Looked

from metabench.core.errors import MetabenchError
from metabench.search.driver import Search
from metabench.search.islands import Round, begun, migrants, read_round, write_round
from metabench.search.strategy import make_strategy

ISLANDS, ROUNDS, BUDGET = 3, 3, 12


def run(of: Round, folder: Path) -> Path:
    """Run one round of an island: its budget grows by a third of the whole each time."""

    def make(state: Mapping[str, Any] | None) -> Search:
        strategy = make_strategy("evolution", TINY, BUDGET, of.strategy_seed, {"population": 4})
        return Search.of(strategy, Looked(), BUDGET * (of.number + 1) // ROUNDS, state)

    search = begun(of, ISLANDS, lambda one: folder, make)
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


def test_a_round_whose_neighbour_is_missing_or_of_another_seed_does_not_begin(tmp_path: Path) -> None:
    run(Round("test", 0, 1, 0), tmp_path)
    second = Round("test", 0, 1, 1)
    with pytest.raises(MetabenchError, match="round 0 of island 0 is missing"):
        run(second, tmp_path)
    run(Round("test", 5, 0, 0), tmp_path)
    with pytest.raises(MetabenchError, match="is of seed 5, expected 0"):
        run(second, tmp_path)
    assert not second.file(tmp_path).exists()


def test_a_state_that_was_changed_by_hand_or_by_a_disk_is_refused(tmp_path: Path) -> None:
    one = Round("test", 0, 0, 0)
    path = run(one, tmp_path)
    good = json.loads(path.read_text())
    for change in (
        {"state": {**good["state"], "told": "nothing"}},
        {"state": [1]},
        {"round": "first"},
        {"sha256": None},
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(MetabenchError, match="is damaged: remove it"):
            read_round(one, tmp_path)
    path.write_text(json.dumps(good | {"version": 1}))
    with pytest.raises(MetabenchError, match="is of version 1, expected 2"):
        read_round(one, tmp_path)
