"""Searches on the page: paired with random search, each at its cost; rankings beside what costs nothing and the ceiling."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.report.figure import Figure
from metabench.report.numbers import ABSENT
from metabench.report.section import contents, headline
from metabench.report.tables.table import Table
from metabench.results import searches as names


def row_of(
    synthetic: Any, method: str, seed: int, tests: dict[str, float], rankings: bool = True, **kind: Any
) -> dict[str, Any]:
    row = synthetic.row(method, seed, problem="regularisation", parameters=100, dataset="digits", kind="search")
    options = {
        "strategies": "random, evolution + ridge",
        "fitness": "supernet",
        "budget": 25,
        "tasks": 100,
        "searches": 1,
        "way": "meta",
        "net_steps": 150,
    }
    said: dict[str, float] = {names.of(names.TRAINING, names.ADAPTATIONS): 3000.0}
    for entrant, test in tests.items():
        said |= {
            names.of(entrant, names.VALIDATION): test + 5,
            names.of(entrant, names.TEST): test + seed,
            names.of(entrant, names.REGRET): 70 - test,
        }
        said |= {names.of(entrant, names.PARAMETERS): 2000.0} | {names.of(entrant, cost): 2.5e9 for cost in names.COSTS}
    if rankings:
        for place, ranked in enumerate(names.RANKED):
            values = {
                names.RANKING: 0.5 + place / 10,
                names.RANKING_LOW: 0.4,
                names.RANKING_HIGH: 0.8,
                names.RANKING_BEST: 0.1,
            }
            said |= {names.of(ranked, key): value for key, value in values.items()}
    changed = {
        "kind_options": options | kind,
        "meta_summary": said,
        "quality": tests["random"],
        "problem_options": {"space": "tiny"},
    }
    return row | changed | {"cell": f"{method}{kind}"[:8]}


TESTS = {"random": 60.0, "evolution + ridge": 64.0, names.BY_HAND: 66.0}


@pytest.fixture
def suite(load_rows: Any, synthetic: Any) -> Any:
    rows = [row_of(synthetic, "unrolled", seed, TESTS | {"evolution + ridge": 64.0 + seed}) for seed in range(4)]
    rows += [
        row_of(synthetic, "none", seed, TESTS | {"evolution + ridge": 60.0}, False, fitness="train")
        for seed in range(4)
    ]
    return load_rows(rows)


def blocks(suite: Any, kind: type) -> list[Any]:
    (part,) = [part for part in contents(suite) if part.name.startswith("searches")]
    return [block for block in part.blocks if isinstance(block, kind)]


def test_strategies_are_paired_with_random_search_by_seed(suite: Any) -> None:
    table = blocks(suite, Table)[0]
    assert [(one["judged"], one["entrant"]) for one in table.records] == [
        *(("with weights meta-trained by unrolled", name) for name in TESTS),
        *(("trained from nothing for 150 outer steps", name) for name in TESTS),
    ]
    found = table.records[1]
    assert found["test"] == 67.0 and found["test_above_value"] == 5.5 and found["test_above_low"] > 0
    assert table.records[0]["test_above_value"] is None and table.rows[0]["test_above"].text == ABSENT
    assert table.rows[1]["won"].text == "4, 0" and found["flops"] == 2.5 and found["shared"] == 3000
    assert {column.key for column in table.columns} <= set(table.rows[0])
    assert table.to_latex() and table.to_csv()


def test_what_ranks_nets_stands_beside_the_parameters_and_the_ceiling(suite: Any) -> None:
    ranked = blocks(suite, Table)[1]
    assert [(one["ranked"], one["kendall"], one["best"]) for one in ranked.records] == [
        (name, pytest.approx(0.5 + place / 10), pytest.approx(0.1)) for place, name in enumerate(names.RANKED)
    ]


def test_the_head_says_who_beats_random_search(suite: Any) -> None:
    assert (
        headline(suite)
        == "On test tasks, nets with weights meta-trained by unrolled: above random search: evolution + ridge."
    )


def test_without_curves_there_is_no_figure_and_without_searches_nothing(
    suite: Any, load_rows: Any, synthetic: Any
) -> None:
    assert not blocks(suite, Figure)
    plain = load_rows([synthetic.row("unrolled", 0, problem="regularisation", parameters=100, dataset="digits")])
    assert not [part for part in contents(plain) if part.name.startswith("searches")]
