"""What the listings and the metadata of results say of methods, problems and data sets."""

from __future__ import annotations

import json

import pytest
import yaml

from metabench import __version__
from metabench.core.method import Cost
from metabench.results.metadata import decode_metadata, encode_metadata
from metabench.suite.plan.catalogue import (
    cost_text,
    dataset_cards,
    method_cards,
    problem_cards,
    size_cards,
)
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.provenance import results_metadata


def test_every_method_but_the_baseline_names_its_paper() -> None:
    for name, card in method_cards().items():
        assert card["title"]
        assert bool(card["citation_key"]) == (name != "none")
        assert card["citation"].partition(",")[0].endswith(card["citation_key"])


def test_every_option_says_what_it_means() -> None:
    for card in [*method_cards().values(), *problem_cards().values()]:
        assert all(option["help"] for option in card["options"])


def test_every_data_set_of_a_problem_exists() -> None:
    for card in problem_cards().values():
        assert set(card["datasets"]) <= set(dataset_cards())


def test_each_problem_has_one_default_size() -> None:
    sizes = size_cards()
    assert [size["problem"] for size in sizes if size["default"]] == list(problem_cards())


def test_cards_are_json() -> None:
    for cards in (method_cards(), problem_cards(), dataset_cards()):
        text = json.dumps(cards)
        assert json.dumps(json.loads(text)) == text


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(), "nothing"),
        (Cost(gradients="K", hvps="K"), "gradients: K; HVPs: K"),
        (Cost(jvps="2", forwards="N"), "JVPs: 2; forwards: N"),
    ],
)
def test_a_cost_is_told_without_what_is_zero(cost: Cost, text: str) -> None:
    assert cost_text(cost) == text


def test_the_metadata_of_results_holds_what_the_suite_used_in_its_order() -> None:
    planned = plan(load_suite({"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": ["t1t2", "none"]}}}))
    metadata = decode_metadata(encode_metadata(results_metadata(planned)))
    assert list(metadata.methods) == ["t1t2", "none"]
    assert metadata.methods["t1t2"]["target"] == "one_step"
    assert list(metadata.problems) == ["toy_1d"]
    assert metadata.problems["toy_1d"]["illustration"] is True
    assert [name for name, card in problem_cards().items() if card["illustration"]] == [
        "few_shot_regression",
        "learned_quadratics",
        "toy_1d",
    ]
    assert list(metadata.datasets) == ["analytic"]
    assert metadata.version == __version__
    assert load_suite(yaml.safe_load(metadata.suite)) == planned.suite
