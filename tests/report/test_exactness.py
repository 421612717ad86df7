"""A method that is declared exact and is not exact in the rows is marked wherever it is named, and nothing else is."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from metabench.report.blocks import Sentence
from metabench.report.build import blocks
from metabench.report.page.page import render_page
from metabench.report.results.entries import Suite
from metabench.report.results.exactness import ROUNDING, exceeds
from metabench.report.results.load import load_suite
from metabench.report.tables.table import Table

WORDS = "declared exact, and errs by 0.0010 against its own target, more than rounding (label_noise on fashion_mnist_10k, mlp256, K = 16)"
REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "results.parquet"


def suite_of(load_rows: Any, synthetic: Any, error: float, seed: int = 2) -> Suite:
    """Every method in two settings; mixflow errs by `error` for one seed of one of them."""
    rows = [
        synthetic.row(method, at, **({"target_error": error} if (method, at) == ("mixflow", seed) else {}))
        for method in synthetic.METHODS
        for at in range(3)
    ]
    rows += [synthetic.row(method, 0, size="mlp64", kind="cost") for method in synthetic.METHODS]
    return load_rows(rows)


@pytest.fixture
def inexact(load_rows: Any, synthetic: Any) -> Suite:
    return suite_of(load_rows, synthetic, 1e-3)


def _said(suite: Suite) -> str:
    return next(one.text for one in blocks(suite, Sentence) if "certified" in one.text)


def _marked(table: Table) -> set[str]:
    cells = {cell.label for row in table.rows for cell in row.values() if cell.inexact}
    return cells | {column.header for column in table.columns if column.inexact}


def _named(table: Table) -> set[str]:
    cells = {cell.label for row in table.rows for cell in row.values() if cell.label}
    return cells | {column.header for column in table.columns if column.key.startswith("label:")}


def test_an_exact_method_that_errs_is_marked_in_every_table(inexact: Suite) -> None:
    """In those of settings where it is exact as well."""
    seen = set()
    for table in blocks(inexact, Table):
        if "mixflow" not in _named(table):
            assert not _marked(table) and "‡" not in table.to_latex()
            continue
        seen.add(table.name)
        assert _marked(table) == {"mixflow"}, table.name
        (note,) = (note for note in table.notes if note.startswith("‡"))
        assert note == f"‡ mixflow: {WORDS}."
        assert "mixflow\\ddag{}" in table.to_latex()
    assert {"overview", "coverage", "certificates", "memory-study"} <= seen
    assert sum(name.startswith("setting") for name in seen) == 2


def test_an_exact_method_that_rounds_is_not_marked(load_rows: Any, synthetic: Any) -> None:
    suite = suite_of(load_rows, synthetic, 1e-12)
    assert all(not _marked(table) for table in blocks(suite, Table))
    assert not any("‡" in note for table in blocks(suite, Table) for note in table.notes)
    assert 'class="dagger"' not in render_page(suite)
    assert "declared exact" not in _said(suite)


def test_what_is_not_declared_exact_is_not_judged(inexact: Suite) -> None:
    """ift_cg is approximate and errs by a tenth; none estimates nothing and errs by all of it."""
    errors = {entry.label: entry.own_error for entry in inexact.entries}
    assert errors["ift_cg"] > ROUNDING and errors["none"] == 1.0
    assert {label for label, why in inexact.inexact.items() if why} == {"mixflow"}
    assert (
        not exceeds(False, "implicit", 0.1) and not exceeds(True, "none", 1.0) and not exceeds(True, "unrolled", None)
    )
    assert exceeds(True, "one_step", 1e-7) and not exceeds(True, "one_step", 1e-9)


def test_the_worst_seed_decides(inexact: Suite) -> None:
    entry = max((one for one in inexact.entries if one.label == "mixflow"), key=lambda one: one.own_error or 0.0)
    assert entry.own_error == 1e-3 and entry.gradient["target_error"] == pytest.approx(1e-3 / 3)


def test_options_of_a_method_are_judged_apart_and_its_certificate_by_the_worst(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("truncated", 0, validation_loss=0.1)]
    rows.append(synthetic.row("truncated", 0, options={"window": 2}, target_error=0.1, validation_loss=0.2))
    suite = load_rows(rows)
    assert not suite.inexact["truncated"] and suite.inexact["truncated(window=2)"]
    tables = {table.name: table for table in blocks(suite, Table)}
    assert _marked(tables["coverage"]) == {"truncated(window=2)"}
    assert _marked(tables["overview"]) == set(), "the options with less validation loss stand for the method"
    assert _marked(tables["certificates"]) == {"truncated"}


def test_the_summary_names_it_with_its_error(inexact: Suite) -> None:
    assert f"`mixflow` is {WORDS}." in _said(inexact)
    assert "`unrolled`" not in _said(inexact)


def test_both_marks_stand_side_by_side(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row(method, 0, target_error=0.2) for method in ("unrolled", "mixflow")]
    given = synthetic.certificates(("unrolled", "mixflow"), mixflow={"verdict": "FAILED", "failures": ["a claim"]})
    suite = load_rows(rows, certificates=given)
    (table,) = (table for table in blocks(suite, Table) if table.name.startswith("setting"))
    assert "mixflow\\dag{}\\ddag{}" in table.to_latex() and "unrolled\\ddag{}" in table.to_latex()
    page = render_page(suite)
    assert 'title="declared exact, and errs by 0.20 against its own target' in page


def test_csv_says_it_of_every_row(inexact: Suite) -> None:
    for table in blocks(inexact, Table):
        for record in csv.DictReader(table.to_csv().splitlines()):
            if table.name.startswith("setting"):
                assert float(record["largest_target_error"]) >= float(record["target_error"])
            if table.name.startswith(("setting", "failures")):
                assert record["exceeds_rounding"] == ("true" if record["label"] == "mixflow" else "false")


def test_records_say_how_far_the_exact_hypergradient_is_from_plain_training(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("mixflow", 0, yardstick_error=3e-8), synthetic.row("mixflow", 1), synthetic.row("none", 0)]
    (table,) = (table for table in blocks(load_rows(rows), Table) if table.name.startswith("setting"))
    assert {record["label"]: record["largest_yardstick_error"] for record in table.records} == {
        "none": None,
        "mixflow": 3e-8,
    }


def test_healthy_exact_methods_of_the_published_rows_are_far_below_the_limit() -> None:
    errors = [entry.own_error for entry in load_suite(REFERENCE).entries if entry.exact and entry.own_error is not None]
    assert errors and max(errors) < 1e-4 * ROUNDING
