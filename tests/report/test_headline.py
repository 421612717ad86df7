"""The sentence at the head of the page: at most 25 words, and nothing that the rows do not decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from metabench.report.blocks import Sentence
from metabench.report.build import blocks
from metabench.report.results.entries import Suite
from metabench.report.section import contents, headline
from metabench.report.sections.answer import compared
from metabench.report.tables.table import Table

METHODS = ("unrolled", "mixflow", "truncated", "none")
TOY = "toy_1d"


def trained(synthetic: Any, method: str, mean: float, seeds: int = 4, **options: Any) -> list[dict[str, Any]]:
    """Return seeds of a method whose qualities vary a little around a mean."""
    spread = (-0.01, 0.0, 0.012, 0.003)
    tilt = 1 + len(method) / 50
    return [synthetic.row(method, seed, **{"quality": mean + tilt * spread[seed], **options}) for seed in range(seeds)]


def every(synthetic: Any, **options: Any) -> list[dict[str, Any]]:
    return [row for method in METHODS for row in trained(synthetic, method, 0.8, **options)]


def overview(suite: Suite) -> Table:
    return next(table for table in blocks(suite, Table) if table.name == "overview")


def winning(synthetic: Any) -> list[dict[str, Any]]:
    rows = trained(synthetic, "mixflow", 0.9)
    return rows + [row for method in ("unrolled", "none") for row in trained(synthetic, method, 0.3)]


def at_the_top(synthetic: Any) -> list[dict[str, Any]]:
    return every(synthetic)


def no_hypergradient_needed(synthetic: Any) -> list[dict[str, Any]]:
    rows = trained(synthetic, "none", 0.9)
    return rows + trained(synthetic, "unrolled", 0.3) + trained(synthetic, "unrolled", 0.3, dataset="second")[:1]


def best_differs(synthetic: Any) -> list[dict[str, Any]]:
    return [
        row
        for index in range(40)
        for method in METHODS
        for row in trained(synthetic, method, 0.9 if METHODS[index % 4] == method else 0.3, dataset=f"data{index}")
    ]


def few_seeds(synthetic: Any) -> list[dict[str, Any]]:
    return every(synthetic, seeds=2)


def one_method(synthetic: Any) -> list[dict[str, Any]]:
    return trained(synthetic, "mixflow", 0.8)


def all_failed(synthetic: Any) -> list[dict[str, Any]]:
    status = ("oom", "diverged", "timeout", "unsupported", "error")
    return [synthetic.row(method, seed, status=status[seed], message="why") for method in METHODS for seed in range(5)]


def equal(synthetic: Any) -> list[dict[str, Any]]:
    return [row | {"quality": 0.8 + row["seed"] / 10} for row in every(synthetic)]


def costs(synthetic: Any) -> list[dict[str, Any]]:
    return [synthetic.row(method, 0, kind="cost", dataset=name) for method in METHODS for name in ("one", "two")]


def costs_differ(synthetic: Any) -> list[dict[str, Any]]:
    rows = costs(synthetic)
    return [
        row | {"peak_bytes": 10 if (row["method"], row["dataset"]) == ("unrolled", "one") else row["peak_bytes"]}
        for row in rows
    ]


def only_none_finished(synthetic: Any) -> list[dict[str, Any]]:
    rows = [synthetic.row("none", 0, kind="cost")]
    return [*rows, synthetic.row("unrolled", 0, kind="cost", status="oom", message="limit")]


def approximate_only(synthetic: Any) -> list[dict[str, Any]]:
    return [synthetic.row(method, 0, kind="cost") for method in ("ift_cg", "evograd")]


def some_decided(synthetic: Any) -> list[dict[str, Any]]:
    return every(synthetic) + every(synthetic, seeds=2, dataset="second") + every(synthetic, dataset="third")


def long_labels(synthetic: Any) -> list[dict[str, Any]]:
    rows = []
    for index in range(3):
        for name, mean in (("unrolled", 0.3), ("truncated", 0.9)):
            options = {"window": index + 1, "word": "many words in an option " * 9} if name == "truncated" else {}
            rows += trained(synthetic, name, mean, dataset=f"data{index}", options=options)
    return rows


CASES: dict[Callable[[Any], list[dict[str, Any]]], str] = {
    winning: "`mixflow` has the best quality on its problem.",
    at_the_top: "On its problem 4 methods are at the top; of these `mixflow` takes least memory,",
    no_hypergradient_needed: "`none` has the best quality on its problem with verdicts.",
    best_differs: "No method is at the top everywhere: `unrolled` on label_noise, `mixflow` on label_noise, ",
    few_seeds: "Fewer than 3 seeds: the tables give values, and no verdicts.",
    one_method: "`mixflow` is the only method here: there is nothing to compare it with.",
    all_failed: "No run finished: oom 4, diverged 4, timeout 4, unsupported 4, error 4.",
    equal: "On its problem 4 methods are at the top; of these `mixflow` takes least memory,",
    costs: "`mixflow` takes the least memory of all exact methods, 0.",
    costs_differ: "Which of the exact methods takes the least memory depends on the problem: `mixflow`, `unrolled`.",
    only_none_finished: "No run of a method that estimates a hypergradient finished.",
    approximate_only: "`evograd` takes the least memory of all methods that estimate a hypergradient.",
    some_decided: "On both problems with verdicts 4 methods are at the top; of these `mixflow` takes least memory,",
    long_labels: "`truncated` has the best quality on all 3 problems.",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_headline_says_what_is_decided_in_25_words(load_rows: Any, synthetic: Any, case: Any) -> None:
    text = headline(load_rows(case(synthetic)))
    assert text.startswith(CASES[case]) and text.endswith(".")
    assert len(text.split()) <= 25, text


def test_an_empty_suite_has_a_headline(load_rows: Any) -> None:
    assert headline(load_rows([])) == "There is nothing to compare yet."


@pytest.fixture
def illustrated(load_rows: Any, synthetic: Any) -> Callable[..., Suite]:
    """A function from rows to a suite whose toy problem is an illustration."""

    def load(rows: list[dict[str, Any]]) -> Suite:
        cards = json.loads(synthetic.metadata()["problems"])
        cards[TOY]["illustration"] = True
        return load_rows(rows, problems=json.dumps(cards))

    return load


def _toy(synthetic: Any) -> list[dict[str, Any]]:
    place = {"problem": TOY, "size": "scalar", "problem_variant": ""}
    return [row for method in METHODS for row in trained(synthetic, method, 0.8, **place)]


def test_an_illustration_is_in_no_overview_or_headline(illustrated: Any, synthetic: Any) -> None:
    suite = illustrated(_toy(synthetic) + winning(synthetic))
    assert {task.problem for task in compared(suite)} == {"label_noise"}
    assert [column.key for column in overview(suite).columns if TOY in column.key] == []
    assert not any(TOY in name for record in overview(suite).records for name in record)
    assert headline(suite) == CASES[winning]
    assert any(part.title == TOY for part in contents(suite)), "it has its own part"


def test_an_illustration_that_is_alone_is_shown(illustrated: Any, synthetic: Any) -> None:
    suite = illustrated(_toy(synthetic))
    assert {task.problem for task in compared(suite)} == {TOY}
    assert headline(suite).startswith("On its problem 4 methods are at the top")


def test_a_problem_without_the_baseline_is_in_no_headline(load_rows: Any, synthetic: Any) -> None:
    place = {"problem": "regularisation", "size": "digits64", "problem_variant": "", "experiment": "beside"}
    beside = [row for method in ("t1t2", "evograd") for row in trained(synthetic, method, 0.8, **place)]
    suite = load_rows(beside + winning(synthetic))
    assert {task.problem for task in compared(suite)} == {"label_noise"}
    assert headline(suite) == CASES[winning]
    assert {task.problem for task in compared(load_rows(beside))} == {"regularisation"}


def test_fifty_methods_on_forty_problems(load_rows: Any, synthetic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"method_{index}" for index in range(50)]
    monkeypatch.setattr(synthetic, "METHODS", dict.fromkeys(["unrolled", *names], synthetic.METHODS["unrolled"]))
    rows = [
        synthetic.row(name, seed, dataset=f"data{index}", curves=None)
        for index in range(40)
        for name in (names if index == 0 else names[:2])
        for seed in range(3)
    ]
    suite = load_rows(rows)
    table = overview(suite)
    assert len(table.rows) == 50 and table.rows_shown == 12
    assert len([column for column in table.columns if column.key in {task.slug for task in suite.tasks}]) == 40
    assert len(headline(suite).split()) <= 25
    assert table.to_latex().count("\\\\\n") == 51


def test_problems_that_do_not_tell_methods_from_training_without_one_are_named(load_rows: Any, synthetic: Any) -> None:
    spread = {"none": [0.80, 0.79, 0.81], "unrolled": [0.79, 0.81, 0.80]}
    apart = {"none": [0.50, 0.51, 0.52], "unrolled": [0.80, 0.82, 0.81]}
    for qualities, said in ((spread, True), (apart, False)):
        rows = [synthetic.row(name, seed, quality=value) for name, values in qualities.items() for seed, value in enumerate(values)]
        (answer,) = (part for part in contents(load_rows(rows)) if part.name == "answer")
        texts = [block.text for block in answer.blocks if isinstance(block, Sentence)]
        found = "Training without a hypergradient is not told apart from the best on label_noise."
        assert (found in texts) == said
