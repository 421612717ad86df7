"""What the rows decide: which options stand for a method, what is one computation, who is at the top, and where there is no verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from metabench.report.build import blocks
from metabench.report.results.entries import Suite
from metabench.report.results.outcomes import Outcome, outcomes
from metabench.report.tables.by_setting import cheapest_among, fastest_of, floor_ratio, least_memory
from metabench.report.tables.table import Table
from metabench.report.verdicts import Word

SPREAD = (-0.01, 0.0, 0.01)
NEUMANN = (-3.3, -1.6, -0.9, -2.7, -1.5)
"""Differences of mean -2.0: apart from 0 in pairs, though the two intervals over seeds overlap."""


def trained(synthetic: Any, qualities: Mapping[str, Sequence[float]], **common: Any) -> list[dict[str, Any]]:
    return [
        synthetic.row(method, seed, **{"quality": value, **common})
        for method, values in qualities.items()
        for seed, value in enumerate(values)
    ]


def around(
    *means: float, methods: Sequence[str] = ("unrolled", "mixflow", "evograd", "none")
) -> dict[str, list[float]]:
    """Return three qualities for each method, of some mean; their differences vary a little."""
    return {
        method: [mean + step * (1 + index / 10) for step in SPREAD]
        for index, (method, mean) in enumerate(zip(methods, means, strict=False))
    }


def only(suite: Suite) -> Outcome:
    (found,) = outcomes(suite)
    return found


def table(suite: Suite, start: str) -> Table:
    return next(one for one in blocks(suite, Table) if one.name.startswith(start))


def setting_rows(suite: Suite) -> dict[str, dict[str, Any]]:
    return {row["label"].label: row for row in table(suite, "setting").rows}


def records(suite: Suite) -> dict[str, dict[str, Any]]:
    return {record["label"]: record for record in table(suite, "setting").records}


def top(outcome: Outcome) -> list[str]:
    return [entry.label for entry in outcome.at_the_top()]


def test_the_cheapest_is_sought_among_those_not_told_apart_from_the_best(load_rows: Any, synthetic: Any) -> None:
    qualities = around(0.9, 0.9, 0.7, 0.5)
    qualities["mixflow"] = [0.885, 0.91, 0.9]
    found = only(load_rows(trained(synthetic, qualities)))
    assert found.ranking is not None and found.ranking.best == "unrolled" and found.ranking.winner is None
    assert top(found) == ["unrolled", "mixflow"]
    assert [entry.label for entry in least_memory(cheapest_among(found))] == ["mixflow"]


def test_what_estimates_nothing_is_never_the_cheapest(load_rows: Any, synthetic: Any) -> None:
    found = only(load_rows(trained(synthetic, {"unrolled": [0.8, 0.9, 1.0], "none": [0.81, 0.89, 0.95]})))
    assert set(top(found)) == {"unrolled", "none"}
    assert [entry.label for entry in least_memory(cheapest_among(found))] == ["unrolled"]


def test_a_metric_to_be_small_has_its_best_at_the_bottom(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, {"unrolled": [0.3, 0.31, 0.33], "none": [0.9, 0.92, 0.92]}, direction="min")
    found = only(load_rows(rows))
    assert found.ranking is not None and found.ranking.winner == "unrolled"
    assert found.against_baseline["none"].word == Word.WORSE


def test_a_difference_in_pairs_is_worse_where_intervals_overlap(load_rows: Any, synthetic: Any) -> None:
    """`ift_neumann` at 75.7 was said to tie although its paired difference was -2.0 [-3.8, -0.9]."""
    shared = (72.0, 80.0, 76.0, 83.0, 77.5)
    qualities = {
        "unrolled": shared,
        "ift_neumann": [base + step for base, step in zip(shared, NEUMANN, strict=True)],
        "mixflow": [base + step for base, step in zip(shared, (-0.2, 0.1, -0.3, 0.2, 0.1), strict=True)],
    }
    suite = load_rows(trained(synthetic, qualities))
    best, theirs = (suite.entries[index].quality for index in (0, 1))
    assert best is not None and theirs is not None and (theirs.high or 0) > (best.low or 0)
    rows, found = setting_rows(suite), records(suite)
    assert found["unrolled"]["best"] is True and found["ift_neumann"]["against_best"] == Word.WORSE
    assert found["ift_neumann"]["difference_to_best"] == pytest.approx(-2.0)
    assert found["ift_neumann"]["difference_to_best_high"] < 0
    assert found["ift_neumann"]["against_baseline"] == Word.WORSE
    assert rows["ift_neumann"]["best"].text == "−2.0 worse" and rows["ift_neumann"]["quality"].tone == ""
    assert rows["mixflow"]["quality"].tone == rows["unrolled"]["quality"].tone == "best"
    overview = {row["label"].label: row for row in table(suite, "overview").rows}
    cell = overview["ift_neumann"][suite.tasks[0].slug]
    assert (cell.text, cell.tone) == ("−2.0 worse", "")
    assert table(suite, "overview").records[-1][f"{suite.tasks[0].slug}_verdict"] == Word.WORSE


@pytest.fixture
def swept(load_rows: Any, synthetic: Any) -> Suite:
    """Window 1 has the best test quality of all, window 4 the least loss on validation data."""
    rows = trained(synthetic, around(0.8, 0.81))
    for window, mean, loss in ((1, 0.95, 0.9), (4, 0.7, 0.3), (16, 0.75, 0.6)):
        rows += [
            synthetic.row(
                "truncated", seed, options={"window": window}, quality=mean + step, validation_loss=loss + step / 10
            )
            for seed, step in enumerate(SPREAD)
        ]
    return load_rows(rows)


def test_options_are_chosen_by_validation_and_not_by_test_quality(swept: Suite) -> None:
    found = only(swept)
    assert [entry.label for entry in found.entries] == ["unrolled", "mixflow", "truncated(window=4)"]
    assert found.ranking is not None and found.ranking.best == "mixflow"
    assert set(found.ranking.verdicts) == {"unrolled", "truncated(window=4)"}
    own = records(swept)
    assert {label: record["chosen"] for label, record in own.items()} == {
        "unrolled": True,
        "mixflow": True,
        "truncated(window=1)": False,
        "truncated(window=4)": True,
        "truncated(window=16)": False,
    }
    assert own["truncated(window=1)"]["best"] is False and own["truncated(window=1)"]["against_best"] is None
    rows = setting_rows(swept)
    assert rows["truncated(window=1)"]["best"].text == "tried" and rows["truncated(window=1)"]["quality"].tone == ""
    overview = table(swept, "overview")
    assert {row["label"].label for row in overview.rows} == {"mixflow", "unrolled", "truncated(window=4)"}


def test_options_that_were_tried_are_named_in_a_note(swept: Suite) -> None:
    assert (
        "truncated: tried truncated(window=1), truncated(window=4), truncated(window=16); "
        "chosen, by the outer loss late in training: truncated(window=4)." in table(swept, "setting").notes
    )


def test_a_method_tried_at_one_number_of_steps_only_is_named_in_the_note(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, around(0.8))
    rows += [synthetic.row("truncated", 0, inner_steps=64, options={"window": window}) for window in (1, 2)]
    (note,) = [one for one in table(load_rows(rows), "setting").notes if "tried" in one]
    assert note.startswith("truncated: tried truncated(window=1), truncated(window=2)")


def test_a_variant_with_a_failed_seed_stands_behind_complete_ones(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, around(0.8))
    for window, loss in ((1, 0.1), (4, 0.5)):
        rows += [
            synthetic.row("truncated", seed, options={"window": window}, validation_loss=loss) for seed in range(3)
        ]
    rows[3] = synthetic.row("truncated", 0, options={"window": 1}, status="diverged", message="nan")
    assert [entry.label for entry in only(load_rows(rows)).entries] == ["unrolled", "truncated(window=4)"]


def test_where_nothing_was_trained_the_options_chosen_in_training_stand(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, around(0.8))
    for window, loss in ((1, 0.9), (4, 0.3)):
        options = {"window": window}
        rows += [synthetic.row("truncated", seed, options=options, validation_loss=loss) for seed in range(3)]
        rows.append(synthetic.row("truncated", 0, kind="cost", experiment="cost", options=options))
    costs = next(one for one in outcomes(load_rows(rows)) if not one.setting.trains)
    assert [entry.label for entry in costs.entries] == ["truncated(window=4)"]


def one_computation(synthetic: Any, factor: float, again: float = 1.0) -> list[dict[str, Any]]:
    """Return rows of unrolled, t1t2 with its digests and bytes, and `factor` times its seconds, and mixflow."""
    own = [synthetic.row("unrolled", seed, quality=0.8 + seed / 100) for seed in range(3)]
    copied = ("hypergradient_digest", "peak_bytes", "static_bytes", "dynamic_bytes", "quality")
    twin = [
        synthetic.row("t1t2", row["seed"], time_median_s=factor * row["time_median_s"])
        | {name: row[name] for name in copied}
        for row in own
    ]
    other = [
        synthetic.row("mixflow", seed, quality=0.7 + seed / 90, time_median_s=9 * own[0]["time_median_s"])
        for seed in range(3)
    ]
    return [*own, *twin, *other, *(synthetic.partner(row, again) for row in own)]


@pytest.mark.parametrize("factor", [0.5, 0.79, 1.02, 2.0])
def test_one_computation_is_one_row_and_no_verdict_on_time(load_rows: Any, synthetic: Any, factor: float) -> None:
    suite = load_rows(one_computation(synthetic, factor))
    found = only(suite)
    assert found.same == (frozenset({"unrolled", "t1t2"}),) and found.floor is not None
    rows = setting_rows(suite)
    assert set(rows) == {"unrolled", "mixflow"} and rows["unrolled"]["label"].text == "= t1t2"
    assert "= t1t2" in table(suite, "setting").to_latex()
    own = records(suite)
    assert own["t1t2"]["time_verdict"] is None and own["t1t2"]["same_as"] == "unrolled"
    assert own["mixflow"]["time_verdict"] == Word.SLOWER
    overview = {row["label"].label: row[suite.tasks[0].slug] for row in table(suite, "overview").rows}
    assert overview["t1t2"].text == "= unrolled" and not overview["t1t2"].bars
    assert "t1t2 and unrolled are the same computation here" in " ".join(table(suite, "setting").notes)
    assert {entry.label for entry in fastest_of(found, found.entries)} == {"unrolled", "t1t2"}


def test_equal_bytes_alone_are_two_computations(load_rows: Any, synthetic: Any) -> None:
    rows = [row | {"hypergradient_digest": f"{row['method']}{row['seed']}"} for row in one_computation(synthetic, 1.0)]
    assert only(load_rows(rows)).same == ()


def test_second_runs_are_no_entries_and_give_the_noise_floor(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, around(0.9, 0.8))
    suite = load_rows([*rows, *(synthetic.partner(row, 1.05) for row in rows[:3])])
    assert len(suite.rows) == 6 and len(suite.partners) == 3
    assert [entry.seeds for entry in suite.entries] == [3, 3] and len(suite.settings) == 1
    found = only(suite)
    assert found.floor is not None and found.floor.pairs == 1
    ratio = floor_ratio(found)
    assert ratio is not None and ratio >= 1.05
    assert table(suite, "by-setting").records[0]["noise_floor"] == ratio
    assert records(suite)["mixflow"]["time_verdict"] == Word.TIE


def test_the_second_runs_of_one_place_say_nothing_of_another(load_rows: Any, synthetic: Any) -> None:
    here = trained(synthetic, around(0.9, 0.8))
    there = [row | {"hardware": "Another CPU, 8 cores", "cell": row["cell"][::-1]} for row in here]
    suite = load_rows([*here, *there, *(synthetic.partner(row) for row in here[:3])])
    floors = {one.setting.place.hardware: one.floor for one in outcomes(suite)}
    assert floors[synthetic.HARDWARE] is not None and floors["Another CPU, 8 cores"] is None


def test_without_a_second_run_there_are_values_and_no_verdict_on_time(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(trained(synthetic, around(0.9, 0.8)))
    found = only(suite)
    assert found.floor is None and fastest_of(found, found.entries) == []
    shown = table(suite, "setting")
    assert "time_verdict" not in [column.key for column in shown.columns]
    assert all(record["time_verdict"] is None for record in shown.records)
    assert all(row["time_ratio"].text.endswith("×") for row in shown.rows)
    assert "no noise floor, and no verdict on time" in " ".join(shown.notes)
    (record,) = table(suite, "by-setting").records
    assert record["fastest"] == "" and record["noise_floor"] is None


def test_below_three_seeds_there_is_no_verdict(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(trained(synthetic, {"unrolled": [0.9, 0.91], "mixflow": [0.1, 0.12]}))
    found = only(suite)
    assert not found.decided and top(found) == []
    assert all(verdict.word == Word.NONE for verdict in found.against_baseline.values())
    assert all(row["quality"].tone == "" for row in setting_rows(suite).values())
    assert table(suite, "by-setting").records[0]["not_told_apart"] == ""


def test_survivors_do_not_win(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, {"mixflow": [0.8, 0.81, 0.82, 0.8, 0.81], "truncated": [0.79, 0.8, 0.83, 0.8, 0.81]})
    rows += trained(synthetic, {"unrolled": [0.99, 0.99]})
    rows += [synthetic.row("unrolled", seed, status="diverged", message="nan") for seed in (2, 3, 4)]
    found = only(load_rows(rows))
    assert found.ranking is not None and found.ranking.best == "mixflow"
    assert set(top(found)) == {"mixflow", "truncated"}


def test_where_no_method_finished_every_seed_the_best_is_sought_among_all(load_rows: Any, synthetic: Any) -> None:
    rows = trained(synthetic, {"unrolled": [0.9, 0.9, 0.9], "mixflow": [0.8, 0.81, 0.8]})
    rows += [synthetic.row(method, 3, status="timeout", message="limit") for method in ("unrolled", "mixflow")]
    found = only(load_rows(rows))
    assert found.ranking is not None and found.ranking.best == found.ranking.winner == "unrolled"


def test_where_all_failed_there_is_no_best_and_the_failures_are_counted(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row(method, seed, status="oom", message="limit")
        for method in ("unrolled", "mixflow")
        for seed in range(3)
    ]
    suite = load_rows(rows)
    assert only(suite).ranking is None and top(only(suite)) == []
    (record,) = table(suite, "by-setting").records
    assert record["best"] is None and record["failures"] == "oom=6"


def test_equal_qualities_are_the_same_to_the_digit(load_rows: Any, synthetic: Any) -> None:
    equal = (0.8, 0.81, 0.79)
    suite = load_rows(trained(synthetic, dict.fromkeys(("unrolled", "mixflow", "truncated"), equal)))
    found = only(suite)
    assert found.ranking is not None and found.ranking.winner is None and len(top(found)) == 3
    assert {verdict.word for verdict in found.against_baseline.values()} == {Word.SAME}
    assert setting_rows(suite)["mixflow"]["baseline"].text.endswith("the same to the digit")
