"""The answer: best with its ties, and what it costs least to have it."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.report.page.sentences import sentences
from metabench.report.results.answers import answers, glances
from metabench.report.tables.answers import glance_table, quality_answer_table


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
        synthetic.row(method, 0, inner_steps=steps, kind="cost")
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


def _said(suite: Any) -> dict[str, str]:
    found = answers(suite)
    return dict(sentences(suite, found, glances(suite, found)))


def test_survivors_do_not_win(load_rows: Any, synthetic: Any) -> None:
    rows = _rows(synthetic, {"mixflow": [0.8, 0.81, 0.82, 0.8, 0.81], "truncated": [0.79, 0.8, 0.83, 0.8, 0.81]})
    rows += _rows(synthetic, {"unrolled": [0.99, 0.99]})
    rows += [synthetic.row("unrolled", seed, status="diverged", message="nan") for seed in (2, 3, 4)]
    suite = load_rows(rows)
    (answer,) = answers(suite)
    assert answer.best is not None and answer.best.label == "mixflow"
    assert [entry.label for entry in answer.tied] == ["mixflow", "truncated"]
    assert "every seed finished" in quality_answer_table(suite, [answer]).caption


def test_where_no_method_finished_every_seed_the_best_is_sought_among_all(load_rows: Any, synthetic: Any) -> None:
    rows = _rows(synthetic, {"unrolled": [0.9, 0.9, 0.9], "mixflow": [0.8, 0.8, 0.8]})
    rows += [synthetic.row(method, 3, status="timeout", message="limit") for method in ("unrolled", "mixflow")]
    (answer,) = answers(load_rows(rows))
    assert answer.best is not None and answer.best.label == "unrolled"


@pytest.mark.parametrize(("status", "chance"), [("diverged", 0.4), ("oom", 0.4), ("unsupported", 1.0)])
def test_a_failed_run_loses_unless_the_method_does_not_apply(
    load_rows: Any, synthetic: Any, status: str, chance: float
) -> None:
    rows = _rows(synthetic, {"none": [0.5] * 5, "mixflow": [0.9, 0.9]})
    rows += [synthetic.row("mixflow", seed, status=status, message="why") for seed in (2, 3, 4)]
    suite = load_rows(rows)
    overview = glances(suite, answers(suite))
    found = next(glance.improvement for glance in overview if glance.label == "mixflow")
    assert found is not None and found.value == pytest.approx(chance)
    assert "counts as a loss" in glance_table(suite, overview).caption


def test_costs_are_compared_over_shared_settings_only(load_rows: Any, synthetic: Any) -> None:
    # mixflow is cheaper where both ran; truncated looks cheaper for it ran in a cheap setting more.
    def row(method: str, size: str, peak: int, **options: Any) -> dict[str, Any]:
        return synthetic.row(method, 0, size=size, kind="cost", peak_bytes=peak, **options)

    rows = [row("unrolled", size, 1000) for size in ("mlp64", "mlp256", "mlp1024")]
    rows += [row("mixflow", "mlp64", 400), row("truncated", "mlp64", 500)]
    rows += [row("truncated", size, 10) for size in ("mlp256", "mlp1024")]
    memory = _said(load_rows(rows))["Memory"]
    assert "In the one setting shared by all 3 methods that estimate a hypergradient, `mixflow`" in memory
    assert "0.400× the memory of `unrolled`" in memory


def test_a_sweep_counts_once_a_setting(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("unrolled", 0, size=size, kind="cost", peak_bytes=1000) for size in ("mlp64", "mlp256")]
    rows += [
        synthetic.row("truncated", 0, size="mlp64", kind="cost", peak_bytes=100, options={"window": window})
        for window in (1, 2, 4)
    ]
    rows.append(synthetic.row("truncated", 0, size="mlp256", kind="cost", peak_bytes=500, options={"window": 1}))
    suite = load_rows(rows)
    memory = _said(suite)["Memory"]
    assert "Over the 2 settings shared by all 2 methods" in memory
    assert "`truncated` needs the least memory: 0.300×" in memory
    glance = next(glance for glance in glances(suite, answers(suite)) if glance.label == "truncated(window=1)")
    assert glance.memory_ratio == pytest.approx((0.3, 0.1, 0.5)) and glance.ratio_settings == 2


def test_where_methods_share_no_setting_their_costs_are_not_compared(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("unrolled", 0, size=size, kind="cost") for size in ("mlp64", "mlp256")]
    rows += [synthetic.row("mixflow", 0, size="mlp64", kind="cost")]
    rows += [synthetic.row("truncated", 0, size="mlp256", kind="cost")]
    assert "that estimate a hypergradient" not in _said(load_rows(rows)).get("Memory", "")


def test_hypergradients_are_spoken_of_from_the_certificates(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row(method, 0) for method in ("unrolled", "t1t2", "mixflow", "ift_cg", "evograd")]
    said = _said(load_rows(rows))["Hypergradients"]
    assert said.startswith(
        "5 of 5 methods are certified to be what they declare, 2 of them to equal their own formula and not their target."
    )
    changes = {
        "mixflow": {"verdict": "FAILED", "failures": ["relative error 0.5 on ridge with sgd, 1e-10 allowed"]},
        "t1t2": {"method_hash": "0123456789ab"},
    }
    given = synthetic.certificates(("unrolled", "t1t2", "mixflow", "ift_cg"), **changes)
    said = _said(load_rows(rows, certificates=given))["Hypergradients"]
    assert said.startswith("2 of 5 methods are certified")
    assert "`mixflow`† FAILED: relative error 0.5 on ridge with sgd, 1e-10 allowed." in said
    assert "Others: not certified (hash differs): t1t2; not certified (never run): evograd." in said


def test_without_certificates_no_method_counts_as_certified(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row(method, 0) for method in ("unrolled", "mixflow")]
    said = _said(load_rows(rows, certificates=""))
    assert said["Hypergradients"].startswith("No method is certified")
    assert "`mixflow`†" in said["Memory"] and "`unrolled`†" in said["Memory"]


def test_what_draws_is_judged_by_its_mean_draw(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row(method, 0) for method in ("unrolled", "t1t2", "evograd")])
    overview = glances(suite, answers(suite))
    assert next(glance.cosine for glance in overview if glance.label == "evograd") == 0.55
    text = dict(sentences(suite, answers(suite), overview))["Hypergradients"]
    assert "`evograd` on label_noise, cosine 0.550 (of the mean draw, n = 16 samples per seed)" in text
    table = glance_table(suite, overview)
    cells = {row["label"].text: row["cosine"].text for row in table.rows}
    assert cells["evograd"] == "0.550 (mean draw)" and "draw" not in cells["t1t2"]
    assert "16 samples" in table.caption


def test_a_baseline_that_is_cheapest_is_not_compared_with_itself(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("unrolled", 0, peak_bytes=100), synthetic.row("mixflow", 0, peak_bytes=200)]
    memory = _said(load_rows(rows))["Memory"]
    assert "`unrolled`, the baseline, needs the least memory." in memory and "×" not in memory
