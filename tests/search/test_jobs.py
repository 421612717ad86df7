"""What a search or a table computes before its cell, in jobs: shared weights, rounds of islands, shards; rows do not depend on it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.data.formats.net_table import TEST, decode
from metabench.models.search_space import Space
from metabench.models.spaces import SPACES
from metabench.results import net_tables
from metabench.results import searches as names
from metabench.suite.plan import code_hash as code_hashes
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.plan.preparations import preparations_of
from metabench.suite.run.prepare import mark, prepare
from metabench.suite.run.run_cell import run_cell

FOUR = Space("four", "two layers of two operations", ("conv3", "pool3"), (True, True), (4,))
TASKS = {"ways": 3, "queries": 2, "tasks": 1, "tested": 8, "space": "four", "architecture": "conv3-conv3"}
ISLANDS = {"strategies": "random, local_search", "budget": 4, "tasks": 6, "islands": 2, "rounds": 2}


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "four", FOUR)
    monkeypatch.setattr("metabench.stages.judge._CURVE", (2, 4))


def planned(
    kind: str,
    method: str = "unrolled",
    options: dict[str, Any] | None = None,
    plugins: list[str] | None = None,
    **own: Any,
) -> Cell:
    given = {
        "problem": "few_shot",
        "kind": {kind: own},
        "methods": [method],
        "sizes": ["subnet"],
        "options": TASKS | (options or {}),
        "inner_steps": [2],
        "outer_steps": 2,
    }
    suite = {"name": "x", "seeds": [0], "aa": False, "rounds": 0, "plugins": plugins or [], "experiments": {"a": given}}
    (cell,) = plan(load_suite(suite)).cells
    return cell


def row_of(cell: Cell, prepared: Path | None = None) -> dict[str, Any]:
    (row,) = run_cell(cell, lambda *told: None, prepared=prepared)
    assert row["status"] == "ok", row["message"]
    # As it leaves the process of a cell.
    json.dumps(row, default=dataclasses.asdict)
    return row


def prepare_all(cell: Cell, folder: Path) -> None:
    for part in preparations_of(cell, 0):
        assert prepare(cell, 0, folder, part) == ""


def test_parts_stand_in_order_and_islands_read_their_left_neighbours() -> None:
    parts = preparations_of(planned("search", **ISLANDS | {"islands": 3, "budget": 6}), 0)
    assert next(iter(parts)) == names.SHARED_PART
    assert list(parts)[1:] == [names.round_part(island, number) for number in range(2) for island in range(3)]
    read = [one.name for one in parts[names.round_part(0, 1)].needs]
    assert read == [names.SHARED_PART, names.round_part(0, 0), names.round_part(2, 0)]
    assert len({one.hash for one in parts.values()}) == 7


def test_shared_weights_are_one_job_for_cells_that_differ_in_the_search_alone() -> None:
    one, other = (planned("search", strategies=text, budget=3, tasks=6) for text in ("random", "local_search"))
    assert preparations_of(one, 0)[names.SHARED_PART].hash == preparations_of(other, 0)[names.SHARED_PART].hash
    for unlike in (
        planned("search", "first_order", strategies="random", budget=3, tasks=6),
        planned("search", strategies="random", budget=3, tasks=6, way="joint_meta"),
        planned("search", options={"shots": 2}, strategies="random", budget=3, tasks=6),
    ):
        assert preparations_of(unlike, 0)[names.SHARED_PART].hash != preparations_of(one, 0)[names.SHARED_PART].hash
    assert preparations_of(one, 1)[names.SHARED_PART].hash != preparations_of(one, 0)[names.SHARED_PART].hash


def test_a_cell_says_the_same_whether_islands_were_prepared_all_in_part_or_not_at_all(tmp_path: Path) -> None:
    cell = planned("search", **ISLANDS)
    prepare_all(cell, tmp_path)
    parts = preparations_of(cell, 0)
    said = json.loads(mark(cell, 0, tmp_path, names.round_part(1, 1)).read_text())
    assert said["failed"] == "" and "island-1.round-1.json" in said["files"]
    summaries = [row_of(cell, tmp_path)["meta_summary"]]
    for part in (names.round_part(0, 1), names.SHARED_PART):
        shutil.rmtree(tmp_path / parts[part].hash)
        summaries.append(row_of(cell, tmp_path)["meta_summary"])
    summaries.append(row_of(cell)["meta_summary"])
    assert all(one == summaries[0] for one in summaries)
    # Four evaluations of six tasks each, whoever paid for them.
    assert summaries[0][names.of("random", names.ADAPTATIONS)] == 4 * 6


def test_shared_weights_go_on_where_a_killed_job_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = planned("search", strategies="random", budget=2, tasks=6)
    whole = row_of(cell)["meta_summary"]
    monkeypatch.setattr("metabench.stages.judge._SAVED", 1)

    class Killed(BaseException):
        pass

    from metabench.search import shared_weights

    plain, saved = shared_weights.save, []

    def save(path: Path, shared: Any, identity: str, *, finished: bool) -> None:
        plain(path, shared, identity, finished=finished)
        saved.append(shared.step)
        raise Killed

    monkeypatch.setattr("metabench.stages.judge.save", save)
    with pytest.raises(Killed):
        prepare(cell, 0, tmp_path, names.SHARED_PART)
    monkeypatch.setattr("metabench.stages.judge.save", plain)
    assert saved == [1]
    prepare_all(cell, tmp_path)
    assert row_of(cell, tmp_path)["meta_summary"] == whole


def test_a_budget_that_islands_cannot_share_is_refused() -> None:
    with pytest.raises(
        MetabenchError, match="a budget of 5 evaluations for 3 islands and 2 rounds: expected 6 or more"
    ):
        planned("search", **ISLANDS | {"islands": 3, "budget": 5})
    with pytest.raises(MetabenchError, match="2 rounds of one island: expected 2 islands or more"):
        planned("search", **ISLANDS | {"islands": 1})


def test_an_edited_strategy_leaves_shared_weights_alone_and_reruns_its_own_searches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = [planned("search", strategies=text, budget=3, tasks=6) for text in ("random", "local_search")]
    before = [(code_hash(cell), preparations_of(cell, 0)[names.SHARED_PART].hash) for cell in cells]
    sources = code_hashes.Sources(code_hashes._installed().root)
    sources._digests["metabench.search.strategies.local_search"] = "edited"
    monkeypatch.setattr(code_hashes, "_installed", lambda: sources)
    after = [(code_hash(cell), preparations_of(cell, 0)[names.SHARED_PART].hash) for cell in cells]
    assert after[0] == before[0]
    assert after[1][0] != before[1][0] and after[1][1] == before[1][1]


TABLE = {
    "joint_steps": 2,
    "joint_batch": 8,
    "training_seeds": "0, 1",
    "validation": 4,
    "test": 6,
    "steps": "1, 2",
    "jobs": 3,
}


@pytest.mark.parametrize(
    ("way", "method"), [("joint", "none"), ("meta", "unrolled"), ("meta", "first_order"), ("meta", "reptile")]
)
def test_a_table_is_built_in_jobs_and_the_row_says_what_it_is(tmp_path: Path, way: str, method: str) -> None:
    cell = planned("net_table", method, **TABLE | {"way": way})
    parts = preparations_of(cell, 0)
    assert list(parts) == [*(net_tables.shards_part(i) for i in range(3)), net_tables.TABLE_PART]
    assert [one.name for one in parts[net_tables.TABLE_PART].needs] == list(parts)[:3]
    prepare_all(cell, tmp_path)
    path = tmp_path / parts[net_tables.TABLE_PART].hash / net_tables.TABLE_FILE
    table = decode(path.read_bytes(), "table")
    row = row_of(cell, tmp_path)
    said = row["meta_summary"]
    assert row["message"] == f"the table: {path}" and said[net_tables.NETS] == 4
    assert said[net_tables.MEAN] == pytest.approx(table.accuracies(TEST).mean())
    assert row["quality"] == said[net_tables.CHOSEN] <= said[net_tables.BEST] == table.accuracies(TEST).max()
    assert len(net_tables.rankings(said)) == 6
    assert row["curves"][net_tables.STEPS].x == (1, 2)
    # Without the jobs the cell trains the nets itself; seconds alone differ, and the bytes that tell them.
    alone = row_of(cell)["meta_summary"]
    timed = (net_tables.SECONDS, net_tables.BYTES)
    assert {key: value for key, value in alone.items() if key not in timed} == {
        key: value for key, value in said.items() if key not in timed
    }


@pytest.mark.parametrize(
    ("method", "own", "words"),
    [
        ("none", {"way": "meta"}, "kind 'net_table': way 'meta' trains by hypergradients: name a method"),
        ("unrolled", {}, "kind 'net_table': way 'joint' has none: it goes with the method none"),
        ("none", {"steps": "2, 1"}, "'2, 1': expected ascending whole numbers such as '0, 1, 2'"),
        ("none", {"training_seeds": "a"}, "'a': expected ascending whole numbers"),
    ],
)
def test_what_makes_no_table_is_refused_when_it_is_planned(method: str, own: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError, match=words):
        planned("net_table", method, **TABLE | own)


def test_new_tasks_search_on_their_own_support(tmp_path: Path) -> None:
    own = {"strategies": "random", "budget": 3, "tasks": 6, "new_tasks": 5, "new_budget": 2}
    said = row_of(planned("search", options={"shots": 2}, **own))["meta_summary"]
    assert all(0 <= said[names.of(names.NEW_TASKS, name)] <= 100 for name in (names.OWN, names.AVERAGE))
    # Two nets, each adapted to two halves.
    assert said[names.of(names.NEW_TASKS, names.ADAPTATIONS)] == 4
    with pytest.raises(MetabenchError, match="two halves of their support, and `shots` is 1: expected 2 or more"):
        planned("search", **own)
    with pytest.raises(MetabenchError, match="`new_tasks` goes with `fitness: supernet`"):
        planned("search", "none", options={"shots": 2}, **own | {"fitness": "table"})


MINE = '''
from metabench.search.strategy import Strategy, StrategyCard


class Mine(Strategy):
    card = StrategyCard("asks for what is drawn", name="NAME")

    def ask(self, n):
        return [self.drawn() for _ in range(n)]

    def tell(self, encodings, fitness):
        """Learn nothing."""
'''


def test_rows_depend_on_the_source_of_a_plugins_strategy(tmp_path: Path) -> None:
    def hashes(name: str, text: str) -> tuple[str, str]:
        plugin = tmp_path / f"{name}.py"
        plugin.write_text(MINE.replace("NAME", name) + text)
        cell = planned("search", strategies=name, budget=3, tasks=6, plugins=[str(plugin)])
        return code_hash(cell), preparations_of(cell, 0)[names.SHARED_PART].hash

    (one, shared), (edited, still) = hashes("mine", ""), hashes("mine_edited", "# edited\n")
    assert one != edited and shared == still
