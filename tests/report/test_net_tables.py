"""Tables of nets on the page: what they say of their nets, and how far rankings agree."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.report.blocks import Facts, Sentence
from metabench.report.section import contents
from metabench.report.tables.table import Table
from metabench.results import net_tables as names


def row_of(synthetic: Any, above: float) -> dict[str, Any]:
    row = synthetic.row("none", 0, problem="regularisation", parameters=100, dataset="digits", kind="net_table")
    said = dict.fromkeys((names.MEAN, names.SPREAD, names.BEST, names.CHOSEN, names.PIXELS), 70.0)
    said |= {names.NETS: 125.0, names.QUARTER: above, names.BYTES: 9e5, names.SECONDS: 9.0, names.ADDITIVE: 0.7}
    for ranking, value in ((names.ANOTHER_SEED, 0.8), (names.BY_FLOPS, 0.5)):
        values = (value, value - 0.1, value + 0.1, 0.2)
        keys = (names.KENDALL, names.KENDALL_LOW, names.KENDALL_HIGH, names.KENDALL_BEST)
        said |= {names.of(ranking, key): one for key, one in zip(keys, values, strict=True)}
    numbers = ((names.GAIN, 1.5), (names.GAIN_HALF, 1.0), (names.TASKS, 125.0))
    said |= {names.of_domain("Arabic", "conv3-sep3-sep3", key): value for key, value in numbers}
    said |= {names.SEEDS: 3.0, names.VALIDATION_COUNT: 300.0, names.TEST_COUNT: 500.0}
    # The options say how a table would be made, and not how that was made which ships.
    options = {"training_seeds": "7", "validation": 1, "test": 2}
    changed = {"kind_options": options, "meta_summary": said, "quality": 70.0, "problem_options": {"space": "tiny"}}
    return row | changed


@pytest.mark.parametrize(("above", "words"), [(5.0, "5.0 points above"), (-2.0, "2.0 points below")])
def test_a_table_says_whether_its_nets_are_trained_enough_and_how_far_its_rankings_agree(
    load_rows: Any, synthetic: Any, above: float, words: str
) -> None:
    (part,) = [part for part in contents(load_rows([row_of(synthetic, above)])) if part.name.startswith("net-tables")]
    sentence, facts, table, domains = part.blocks
    assert isinstance(sentence, Sentence) and f"The best quarter of 125 nets is {words}" in sentence.text
    assert ("no net is trained enough" in sentence.text) == (above < 0)
    assert isinstance(facts, Facts) and ("tasks", "300 of validation domains, 500 of test domains") in facts.pairs
    assert isinstance(table, Table)
    assert [(one["ranked"], one["kendall"], one["best"]) for one in table.records] == [
        (names.ANOTHER_SEED, 0.8, 0.2),
        (names.BY_FLOPS, 0.5, 0.2),
    ]
    assert table.to_latex() and table.to_csv()
    assert isinstance(domains, Table) and domains.records == [
        {"domain": "Arabic", "net": "conv3-sep3-sep3", "gain": 1.5, "half": 1.0, "tasks": 125}
    ]


def test_two_tables_of_one_space_have_files_of_their_own(load_rows: Any, synthetic: Any) -> None:
    rows = [row_of(synthetic, 5.0), row_of(synthetic, 4.0) | {"cell": "another", "seed": 1}]
    parts = [part for part in contents(load_rows(rows)) if part.name.startswith("net-tables")]
    found = [block.name for part in parts for block in part.blocks if isinstance(block, Table)]
    assert len(parts) == 2 and len(set(found)) == 4
