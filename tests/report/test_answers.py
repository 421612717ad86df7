"""The answer: best with its ties, and what it costs least to have it."""

from __future__ import annotations

from typing import Any

from metabench.report.answers import answers, glances
from metabench.report.summary import sentences


def _rows(synthetic: Any, qualities: dict[str, list[float]], **common: Any) -> list[dict[str, Any]]:
    return [
        synthetic.row(method, seed, quality=value, **common)
        for method, values in qualities.items()
        for seed, value in enumerate(values)
    ]


def test_the_cheapest_is_sought_among_those_that_tie_with_the_best(load_rows: Any, synthetic: Any) -> None:
    spread = [-0.01, 0.0, 0.01]
    qualities = {"unrolled": 0.9, "mixflow": 0.895, "evograd": 0.7, "none": 0.5}
    suite = load_rows(_rows(synthetic, {name: [mean + step for step in spread] for name, mean in qualities.items()}))
    (answer,) = answers(suite)
    assert answer.best is not None and answer.best.label == "unrolled"
    assert [entry.label for entry in answer.tied] == ["unrolled", "mixflow"]
    assert answer.least_memory is not None and answer.least_memory.label == "mixflow"
    assert not answer.idle_ties


def test_a_metric_to_be_small_has_its_best_at_the_bottom(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(_rows(synthetic, {"unrolled": [0.3, 0.31, 0.32], "none": [0.9, 0.91, 0.92]}, direction="min"))
    (answer,) = answers(suite)
    assert answer.best is not None and answer.best.label == "unrolled"
    chance = next(glance.improvement for glance in glances(suite, [answer]) if glance.label == "unrolled")
    assert chance is not None and chance.value == 1.0


def test_without_intervals_nothing_is_said_to_tie(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(_rows(synthetic, {"unrolled": [0.9, 0.9], "mixflow": [0.9, 0.89]}))
    (answer,) = answers(suite)
    assert [entry.label for entry in answer.tied] == ["unrolled"]
    assert "too few seeds" in dict(sentences(suite, [answer], glances(suite, [answer])))["Quality"]


def test_a_tie_without_any_hypergradient_is_said(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(_rows(synthetic, {"unrolled": [0.8, 0.9, 1.0], "none": [0.81, 0.89, 0.95]}))
    (answer,) = answers(suite)
    assert answer.idle_ties
    assert answer.least_memory is not None and answer.least_memory.label == "unrolled"


def test_where_all_failed_there_is_no_best_and_the_failures_are_counted(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(
        [
            synthetic.row(method, seed, status="oom", message="limit")
            for method in ("unrolled", "mixflow")
            for seed in range(3)
        ]
    )
    (answer,) = answers(suite)
    assert answer.best is None and answer.failures == {"oom": 6} and answer.runs == 6


def test_costs_are_compared_at_the_largest_number_of_inner_steps(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row(method, 0, inner_steps=steps, purpose="cost")
        for method in ("unrolled", "mixflow")
        for steps in (1, 8, 64)
    ]
    (answer,) = answers(load_rows(rows))
    assert answer.inner_steps == 64
    assert answer.exact_memory is not None and (answer.exact_memory.label, answer.exact_memory.inner_steps) == (
        "mixflow",
        64,
    )


def test_the_summary_counts_what_did_not_finish(suite: Any) -> None:
    found = answers(suite)
    failures = dict(sentences(suite, found, glances(suite, found)))["Failures"]
    bad = [row["status"] for row in suite.rows if row["status"] != "ok"]
    assert failures.startswith(f"{len(bad)} of {len(suite.rows)} runs did not finish")
    for status in set(bad):
        assert f"{status} {bad.count(status)}" in failures
