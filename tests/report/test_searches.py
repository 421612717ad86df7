"""Searches on the page: paired with random search, each at its cost; rankings beside what costs nothing and those of the table."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.core.curves import Curve
from metabench.report.blocks import Sentence
from metabench.report.figure import Figure
from metabench.report.numbers import ABSENT
from metabench.report.section import contents, headline
from metabench.report.tables.table import Table
from metabench.results import net_tables
from metabench.results import searches as names

RANKED = (names.SHARED, net_tables.FITTED.format(count=40), net_tables.OTHER_SEEDS)
COSTS = (names.ADAPTATIONS, names.GRADIENTS, names.FLOPS)


def row_of(
    synthetic: Any, method: str, seed: int, tests: dict[str, float], rankings: bool = True, shots: int = 1, **kind: Any
) -> dict[str, Any]:
    row = synthetic.row(method, seed, problem="regularisation", parameters=100, dataset="digits", kind="search")
    options = {
        "strategies": "random, evolution + ridge",
        "fitness": "supernet",
        "budget": 25,
        "tasks": 100,
        "searches": 1,
        "way": "meta",
        "net_way": "meta",
        "net_steps": 150,
    }
    said: dict[str, float] = {names.of(names.TRAINING, names.ADAPTATIONS): 3000.0}
    for entrant, test in tests.items():
        said |= {
            names.of(entrant, names.VALIDATION): test + 5,
            names.of(entrant, names.TEST): test + seed,
            names.of(entrant, names.REGRET): 70 - test,
        }
        said |= {names.of(entrant, names.PARAMETERS): 2000.0} | {names.of(entrant, cost): 2.5e9 for cost in COSTS}
    if rankings:
        for place, ranked in enumerate(RANKED):
            values = (0.5 + place / 10, 0.4, 0.8, 0.1)
            said |= {names.of(ranked, key): value for key, value in zip(net_tables.OF_RANKING, values, strict=True)}
    changed = {
        "kind_options": options | kind,
        "meta_summary": said,
        "quality": tests["random"],
        "problem_options": {"space": "tiny", "ways": 5, "shots": shots},
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
    (part,) = [part for part in contents(suite) if part.name == "searches-0"]
    return [block for block in part.blocks if isinstance(block, kind)]


def test_strategies_are_paired_with_random_search_by_seed(suite: Any) -> None:
    table = blocks(suite, Table)[0]
    assert [(one["judged"], one["entrant"]) for one in table.records] == [
        *(("with weights meta-trained by unrolled", name) for name in TESTS),
        *(("trained from nothing by MAML, 150 steps", name) for name in TESTS),
    ]
    found = table.records[1]
    assert found["test"] == 67.0 and found["test_above_value"] == 5.5 and found["test_above_low"] > 0
    assert table.records[0]["test_above_value"] is None and table.rows[0]["test_above"].text == ABSENT
    assert table.rows[1]["won"].text == "4, 0" and found["flops"] == 2.5e-3 and found["shared"] == 3000
    assert {column.key for column in table.columns} <= set(table.rows[0])
    assert table.to_latex() and table.to_csv()


def test_what_ranks_nets_stands_beside_the_parameters_and_the_table(suite: Any) -> None:
    ranked = blocks(suite, Table)[1]
    assert [(one["ranked"], one["kendall"], one["best"]) for one in ranked.records] == [
        (name, pytest.approx(0.5 + place / 10), pytest.approx(0.1)) for place, name in enumerate(RANKED)
    ]


def test_the_head_says_who_beats_random_search(suite: Any) -> None:
    assert (
        headline(suite)
        == "On test tasks, nets with weights meta-trained by unrolled: above random search: evolution + ridge."
    )


def test_without_curves_none_are_drawn_and_without_searches_nothing(
    suite: Any, load_rows: Any, synthetic: Any
) -> None:
    assert [figure.kind for figure in blocks(suite, Figure)] == ["searches"]
    assert blocks(suite, Figure)[0].title == "Regret against what was paid"
    plain = load_rows([synthetic.row("unrolled", 0, problem="regularisation", parameters=100, dataset="digits")])
    assert not [part for part in contents(plain) if part.name.startswith("searches")]


def test_the_largest_net_stands_in_every_comparison(suite: Any, load_rows: Any, synthetic: Any) -> None:
    assert any("No search is above the largest net" in one.text for one in blocks(suite, Sentence))
    better = load_rows([row_of(synthetic, "unrolled", seed, TESTS | {"random": 70.0 + seed}) for seed in range(4)])
    said = [one.text for one in blocks(better, Sentence) if "Above the largest net" in one.text]
    assert said == [
        "Above the largest net, for which nothing is searched: random (with weights meta-trained by unrolled)."
    ]


def test_ranking_by_shared_weights_is_compared_with_a_ridge_on_a_few_nets(suite: Any) -> None:
    (said,) = [one.text for one in blocks(suite, Sentence) if "Shared weights rank" in one.text]
    assert said == (
        "Shared weights rank nets worse than a ridge on 40 nets trained from nothing, by Kendall's tau: with weights meta-trained by "
        "unrolled (−0.10 ± 0.00)."
    )


def test_what_is_level_with_random_search_is_one_sentence(load_rows: Any, synthetic: Any) -> None:
    level = TESTS | {"evolution + ridge": 60.0}
    rows = [row_of(synthetic, method, seed, level) for method in ("unrolled", "t1t2") for seed in range(4)]
    said = [one.text for one in blocks(load_rows(rows), Sentence) if "random search" in one.text]
    assert said == [
        "On test tasks no strategy is told apart from random search: nets with weights meta-trained by unrolled; with weights meta-trained "
        "by t1t2."
    ]


def test_searches_on_other_tasks_are_a_part_of_their_own(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, "unrolled", seed, TESTS, shots=shots) for shots in (1, 4) for seed in range(3)]
    for place, row in enumerate(rows):
        row["cell"] = f"shots{place // 3}"
    found = [part.subtitle for part in contents(load_rows(rows)) if part.name.startswith("searches-") and part.subtitle]
    assert [one.split(",")[1] for one in found] == [" 5-way 1-shot digits", " 5-way 4-shot digits"]


def test_ways_are_compared_after_the_steps_of_training_with_what_they_cost(load_rows: Any, synthetic: Any) -> None:
    rows, curves = [], {}
    for seed in range(4):
        for method, way, height in (("unrolled", "meta", 40.0), ("none", "joint", 50.0)):
            row = row_of(synthetic, method, seed, TESTS, way=way) | {"cell": way, "inner_steps": 2}
            row["meta_summary"][names.of(names.TRAINING, names.FLOPS)] = 2e12 if way == "meta" else 1e12
            rows.append(row)
            curves[way, seed] = {
                names.STEPS: Curve([0, 1, 2, 3], [20, 30, height + seed, 60], "%", "steps of adaptation")
            }
    suite = load_rows(rows)
    suite.curves.update(curves)
    (said,) = [one.text for one in blocks(suite, Sentence) if "After as many steps" in one.text]
    assert said == (
        "After as many steps as in training, nets with weights meta-trained by unrolled are below those with weights trained jointly on "
        "all classes (−10.0 ± 0.0 points, at 2.00× the FLOPs of training)."
    )
    titles = [figure.title for figure in blocks(suite, Figure)]
    assert "From shared weights, after k steps" in titles and "Regret against what was paid" in titles


def test_a_net_of_each_tasks_own_is_compared_with_the_best_on_average(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, "unrolled", seed, TESTS) for seed in range(4)]
    for seed, row in enumerate(rows):
        row["meta_summary"] |= {
            names.of(names.NEW_TASKS, names.OWN): 50.0 + seed,
            names.of(names.NEW_TASKS, names.AVERAGE): 52.0 + seed,
        }
    (said,) = [one.text for one in blocks(load_rows(rows), Sentence) if "own" in one.text]
    assert "chosen on its support, costs accuracy: −2.0 ± 0.0 points" in said


def test_neighbours_in_print_say_how_they_differ_and_that_one_is_reconstructed(suite: Any) -> None:
    (part,) = [part for part in contents(suite) if part.name == "searches-in-print"]
    (table,) = part.blocks
    systems = {record["system"] for record in table.records}
    assert {"T-NAS", "MAML", "AT-NAS, reconstructed here"} <= systems
    assert all(record["differs"] and record["source"] for record in table.records)


def test_where_a_seed_has_several_searches_these_are_the_pairs(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, "unrolled", seed, TESTS) for seed in range(2)]
    for row in rows:
        values = zip(names.above(names.TEST), (2.0, 3.0, 15.0, 5.0), strict=True)
        row["meta_summary"] |= {names.of("evolution + ridge", kept): value for kept, value in values}
    table = blocks(load_rows(rows), Table)[0]
    found = table.records[1]
    # Two independent intervals of 3 points each: their mean has one of 3 / sqrt(2).
    assert found["test_above_value"] == 2.0 and found["test_above_high"] == pytest.approx(2 + 3 / 2**0.5)
    assert table.rows[1]["won"].text == "30, 10"


def test_searches_that_are_judged_otherwise_are_not_merged(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, "unrolled", seed, TESTS) for seed in range(3)]
    longer = [row_of(synthetic, "unrolled", seed, TESTS) | {"outer_steps": 300, "cell": "longer"} for seed in range(3)]
    more = [row_of(synthetic, "unrolled", seed, TESTS, tasks=30) | {"cell": "more"} for seed in range(3)]
    (table, *_) = blocks(load_rows(rows + longer + more), Table)
    steps = rows[0]["outer_steps"]
    words = "with weights meta-trained by unrolled, outer steps {}, tasks {}"
    assert list(dict.fromkeys(one["judged"] for one in table.records)) == [
        words.format(steps, 100),
        words.format(300, 100),
        words.format(steps, 30),
    ]
    assert all(one["n"] == 3 for one in table.records)


def test_searches_of_a_row_are_compared_with_the_largest_net_one_by_one(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, "unrolled", seed, TESTS) for seed in range(2)]
    # Two seeds alone have no interval; forty searches do.
    assert not any("largest net" in one.text for one in blocks(load_rows(rows), Sentence))
    for row in rows:
        kept = names.above(names.TEST, names.BY_HAND)
        values = zip(kept, (-2.0, 0.5, 3.0, 17.0), strict=True)
        row["meta_summary"] |= {names.of("random", key): value for key, value in values}
    said = [one.text for one in blocks(load_rows(rows), Sentence)]
    assert "No search is above the largest net, for which nothing is searched, by more than the interval." in said


def test_a_ranking_that_is_not_defined_leaves_the_others(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, "unrolled", seed, TESTS) for seed in range(3)]
    for key in net_tables.OF_RANKING[1:]:
        del rows[0]["meta_summary"][names.of(names.SHARED, key)]
    del rows[1]["meta_summary"][names.of(names.SHARED, net_tables.KENDALL)]
    ranked = blocks(load_rows(rows), Table)[1]
    assert [one["n"] for one in ranked.records] == [2, 3, 3] and ranked.to_csv()
