"""Warnings about rows of different code: a data set has a loader of its own, and so another hash; an edit between rows is told."""

from __future__ import annotations

from typing import Any

from metabench.report.results.provenance import warnings


def rows(synthetic: Any, datasets: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        synthetic.row("unrolled", seed, problem="regularisation", parameters=100, dataset=dataset)
        | {"code_hash": f"hash{seed}", "cell": f"cell{seed}"}
        for seed, dataset in enumerate(datasets)
    ]


def test_other_data_or_options_are_no_other_version_of_the_code_and_another_hash_of_the_same_is(
    load_rows: Any, synthetic: Any
) -> None:
    mixed = "Rows of one method and problem come from different versions of the code: unrolled on regularisation"
    two = load_rows(rows(synthetic, ("digits", "fashion_mnist_10k")))
    assert not [text for text in warnings(two) if text.startswith(mixed)]
    one = load_rows(rows(synthetic, ("digits", "digits")))
    assert [text for text in warnings(one) if text.startswith(mixed)]
    named = [row | {"kind_options": {"strategies": str(place)}} for place, row in enumerate(one.rows)]
    assert not [text for text in warnings(load_rows(named)) if text.startswith(mixed)]
