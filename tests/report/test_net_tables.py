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
    for ranking, value in (("seeds 0 and 1, test", 0.8), ("FLOPs and test", 0.5)):
        values = (value, value - 0.1, value + 0.1, 0.2)
        keys = (names.KENDALL, names.KENDALL_LOW, names.KENDALL_HIGH, names.KENDALL_BEST)
        said |= {names.of(ranking, key): one for key, one in zip(keys, values, strict=True)}
    numbers = ((names.GAIN, 1.5), (names.GAIN_HALF, 1.0), (names.TASKS, 125.0))
    said |= {names.of_domain("Arabic", "conv3-sep3-sep3", key): value for key, value in numbers}
    options = {"training_seeds": "0, 1, 2", "validation": 300, "test": 500}
    changed = {"kind_options": options, "meta_summary": said, "quality": 70.0, "problem_options": {"space": "tiny"}}
    return row | changed


@pytest.mark.parametrize(("above", "words"), [(5.0, "5.0 points above"), (-2.0, "2.0 points below")])
def test_a_table_says_whether_its_nets_are_trained_enough_and_what_no_ranking_exceeds(
    load_rows: Any, synthetic: Any, above: float, words: str
) -> None:
    (part,) = [part for part in contents(load_rows([row_of(synthetic, above)])) if part.name.startswith("net-tables")]
    sentence, facts, table, domains = part.blocks
    assert isinstance(sentence, Sentence) and f"The best quarter of 125 nets is {words}" in sentence.text
    assert ("no net is trained enough" in sentence.text) == (above < 0)
    assert isinstance(facts, Facts) and ("tasks", "300 of validation domains, 500 of test domains") in facts.pairs
    assert isinstance(table, Table)
    assert [(one["ranked"], one["kendall"], one["best"]) for one in table.records] == [
        ("seeds 0 and 1, test", 0.8, 0.2),
        ("FLOPs and test", 0.5, 0.2),
    ]
    assert table.to_latex() and table.to_csv()
    assert isinstance(domains, Table) and domains.records == [
        {"domain": "Arabic", "net": "conv3-sep3-sep3", "gain": 1.5, "half": 1.0, "tasks": 125}
    ]
