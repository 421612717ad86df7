"""What the report says of certificates: every label whose method is not certified is marked, wherever it stands."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from metabench.report.build import blocks, build_tables
from metabench.report.figure import Figure
from metabench.report.figures.solver_budget import ROUNDING, budget_figure
from metabench.report.page.page import render_page
from metabench.report.palette import PALETTE, assign_styles
from metabench.report.results.certified import NEVER, OTHER_SOURCE, verdict
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite
from metabench.report.tables.certificates import certificate_table
from metabench.report.tables.table import Table
from metabench.results.certificate import VERDICTS, Certificate

MESSAGE = "relative error 0.31 on ridge, sgd, K = 5: 1e-10 allowed"
FAILING = {
    "verdict": "FAILED",
    "failures": [MESSAGE, "the second", "the third", "the last"],
    "claims": {"FAILED": 2, "certified": 3},
    "error": 0.31,
}
OTHER = {"method_hash": "0123456789ab"}


@pytest.fixture
def doubtful(load_rows: Any, synthetic: Any) -> Suite:
    """mixflow FAILED, t1t2 was certified at another source, ift_cg is unsupported everywhere, evograd was never certified."""
    rows = [
        synthetic.row(method, seed, status="oom" if method == "t1t2" and seed == 0 else "ok", message="limit")
        for method in synthetic.METHODS
        for seed in range(3)
    ]
    rows += [synthetic.row(method, 0, size="mlp64", kind="cost") for method in synthetic.METHODS]
    changes = {"mixflow": FAILING, "t1t2": OTHER, "ift_cg": {"verdict": "unsupported", "claims": {"unsupported": 9}}}
    given = synthetic.certificates([name for name in synthetic.METHODS if name != "evograd"], **changes)
    return load_rows(rows, certificates=given)


def _marks(table: Table) -> dict[str, set[str]]:
    """Return the labels in the cells and headers of a table with the marks that they bear."""
    found: dict[str, set[str]] = {}
    for cell in (cell for row in table.rows for cell in row.values() if cell.label):
        found.setdefault(cell.label, set()).add(cell.doubt)
    for column in table.columns:
        if column.key.startswith("label:"):
            found.setdefault(column.header, set()).add(column.doubt)
    return found


def _records(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(table.to_csv().splitlines()))


def test_the_summary_says_what_a_library_computes_instead(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row(method, seed) for method in synthetic.METHODS for seed in range(3)]
    changes = {"mixflow": FAILING | {"instead": "the last step alone"}, "ift_cg": {"instead": "twice the answer"}}
    suite = load_rows(rows, certificates=synthetic.certificates(**changes))
    page = render_page(suite)
    assert "FAILED: it computes the last step alone." in page
    assert "is not its target: it computes twice the answer." in page
    table = certificate_table(suite)
    told = {record["method"]: record["computes_instead"] for record in _records(table)}
    assert (told["mixflow"], told["ift_cg"], told["unrolled"]) == ("the last step alone", "twice the answer", "")
    (why,) = [row["why"] for row in table.rows if row["label"].label == "ift_cg"]
    assert why.text == "computes instead: twice the answer"


def test_a_certificate_is_of_one_source(synthetic: Any) -> None:
    certificate = Certificate.from_json(synthetic.certificate("mixflow"))
    own = certificate.method_hash
    assert verdict(certificate, [own, own]) == "certified"
    assert verdict(certificate, [own, "other"]) == OTHER_SOURCE
    assert verdict(None, [own]) == NEVER


def test_where_all_is_certified_nothing_is_marked(suite: Suite, suite_page: str) -> None:
    for table in blocks(suite, Table):
        assert all(marks == {""} for marks in _marks(table).values()), table.name
        assert not any("†" in note for note in table.notes)
        if table.name.startswith(("setting", "overview", "coverage")):
            assert table.certificates == "all 9 methods here are what they declare to be."
    assert "†" not in suite_page


def test_every_label_of_a_method_that_is_not_certified_is_marked_in_every_table(doubtful: Suite) -> None:
    expected = {
        "mixflow": "FAILED: is not what it declares to be",
        "t1t2": f"{OTHER_SOURCE}: ",
        "ift_cg": "unsupported: ",
        "evograd": f"{NEVER}: ",
    }
    seen: set[str] = set()
    for table in blocks(doubtful, Table):
        if table.name == "certificates":
            continue
        for label, marks in _marks(table).items():
            (mark,) = marks
            assert mark.startswith(expected[label]) if label in expected else mark == "", (table.name, label)
            if mark:
                seen.add(table.name)
                assert any(label in note and note.startswith("†") for note in table.notes), (table.name, label)
                assert "†" in table.certificates
                assert f"{label}\\dag{{}}".replace("_", "\\_") in table.to_latex()
    assert {"overview", "by-setting", "coverage", "failures"} <= seen
    assert sum(name.startswith("setting") for name in seen) == 2


def test_methods_that_tie_are_marked_in_the_list_of_those_that_do(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row(method, seed, quality=0.5 + 0.1 * seed) for method in ("unrolled", "mixflow") for seed in range(3)
    ]
    suite = load_rows(rows, certificates=synthetic.certificates(mixflow=FAILING))
    (table,) = (table for table in blocks(suite, Table) if table.name == "by-setting")
    assert table.rows[0]["tied"].text == "mixflow†"


def test_csv_has_the_verdict_of_every_row(doubtful: Suite, tmp_path: Path) -> None:
    expected = {"mixflow": "FAILED", "t1t2": "not certified", "ift_cg": "unsupported", "evograd": "not certified"}
    expected |= {"unrolled": "certified", "ift_neumann": "approximate-as-declared"}
    for table in blocks(doubtful, Table):
        if table.name.startswith(("setting", "overview", "failures")):
            for record in _records(table):
                method = record.get("label") or record["method"]
                assert record["certificate"] == expected.get(method, "certified")
        if table.name == "coverage":
            assert all(set(record["not_certified"].split("; ")) <= set(expected) for record in _records(table))
            assert any("mixflow" in record["not_certified"] for record in _records(table))


def test_the_table_of_certificates_says_what_each_method_is_held_to(doubtful: Suite) -> None:
    table = certificate_table(doubtful)
    rows = {row["label"].text: row for row in table.rows}
    assert list(rows) == list(doubtful.metadata.methods)
    assert rows["unrolled"]["verdict"].verdict == "certified"
    assert rows["unrolled"]["claims"].text == "12 certified,\n2 unsupported"
    assert rows["unrolled"]["error"].text == "3.0×10⁻¹³" and rows["unrolled"]["norm_ratio"].text == "1.00"
    assert rows["ift_neumann"]["norm_ratio"].text == "0.710 to 1.08"
    assert rows["mixflow"]["verdict"].verdict == "FAILED" and MESSAGE in rows["mixflow"]["why"].text
    assert rows["t1t2"]["verdict"].verdict == OTHER_SOURCE and rows["t1t2"]["error"].text == "–"
    assert "certified: 0123456789ab" in rows["t1t2"]["hash"].text
    assert rows["evograd"]["verdict"].verdict == NEVER
    for name, words in VERDICTS.items():
        assert f"{name}: {words}." in table.caption
    assert "test of the mean of its draws" in table.caption and "2.13.0+cpu" in table.caption
    records = {record["method"]: record for record in _records(table)}
    assert records["mixflow"]["claims_FAILED"] == "2" and records["mixflow"]["failures"].startswith(MESSAGE)
    assert records["t1t2"]["certificate"] == OTHER_SOURCE and records["t1t2"]["worst_error"] == ""


def test_why_combinations_are_unsupported_is_folded_away(doubtful: Suite) -> None:
    text = render_page(doubtful)
    section = text[text.index('id="certificates"') : text.index('id="coverage"')]
    assert "<details><summary>unsupported: 2 reasons</summary><ul><li>unrolled needs an inner minimum</li>" in section
    assert "the second<details><summary>2 more failed</summary><ul><li>the third</li><li>the last</li></ul>" in section


def test_the_page_leads_from_every_table_and_every_mark_to_the_certificates(doubtful: Suite) -> None:
    text = render_page(doubtful)
    tables = [table for table in blocks(doubtful, Table) if table.name != "certificates"]
    assert text.count('<a href="#certificates">Certificates</a>: ') == len(tables)
    daggers = re.findall(r'<a class="dagger" href="#certificates" title="([^"]+)"', text)
    assert any(title.startswith("FAILED") for title in daggers)
    section = text[text.index('<section id="certificates">') : text.index('<section id="coverage">')]
    assert 'id="table-certificates"' in section and 'class="verdict failed"' in section and MESSAGE in section


def test_results_without_certificates_have_a_page_that_says_how_to_certify(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row(method, 0) for method in ("unrolled", "mixflow")], certificates="")
    text = render_page(suite)
    assert "metabench certify --out certificates.parquet" in text
    assert "no method here is certified (†)" in text
    assert {row["verdict"].verdict for row in certificate_table(suite).rows} == {NEVER}
    assert not isinstance(budget_figure(suite), Figure)


def test_only_the_entries_of_another_source_are_marked(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("unrolled", 0), synthetic.row("unrolled", 0, size="mlp64", **OTHER)]
    suite = load_rows(rows)
    found = {entry.setting.size: entry.verdict for entry in suite.entries}
    assert found == {"mlp256": "certified", "mlp64": OTHER_SOURCE}
    assert suite.verdicts == {"unrolled": OTHER_SOURCE}


def test_text_in_certificates_is_escaped(load_rows: Any, synthetic: Any) -> None:
    evil = "<script>alert(1)</script>"
    changes = FAILING | {"failures": [evil], "unsupported": [evil], "curves": [[evil, evil, [[1, 0.5], [2, 0.1]]]]}
    suite = load_rows([synthetic.row("mixflow", 0)], certificates=synthetic.certificates(mixflow=changes))
    assert evil not in render_page(suite)


def test_the_error_against_solver_budget_is_drawn_with_the_colours_of_the_methods(suite: Suite, suite_page: str) -> None:
    figure = budget_figure(suite)
    assert isinstance(figure, Figure)
    assert [panel.title for panel in figure.panels] == ["steps · ridge", "steps · logistic"]
    panel = figure.panels[0]
    assert panel.x.log and panel.y.log and panel.x.kind == "count" and panel.floor == ROUNDING
    assert panel.labels == ["ift_neumann", "ift_cg"]
    assert [len(line) for line in panel.lines] == [5, 5]
    assert all(suite.method_styles[label] == suite.styles[label] for label in panel.labels)
    section = suite_page[suite_page.index('<section id="certificates">') : suite_page.index('<section id="coverage">')]
    assert 'id="figure-error_budget"' in section and "10⁻¹³: rounding" in section


def test_a_method_that_ran_with_options_only_has_its_colour_in_the_figure_of_budgets(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row("ift_cg", 0, options={"steps": steps}) for steps in (5, 20)])
    assert {style.colour for style in suite.styles.values()} == {suite.method_styles["ift_cg"].colour}
    (figure,) = (block for block in blocks(suite, Figure) if block.name == "error_budget")
    records = list(csv.DictReader(figure.to_csv().splitlines()))
    assert {record["label"] for record in records} == {"ift_cg"}
    assert {(float(record["x"]), float(record["y"])) for record in records if record["panel"] == "steps · ridge"} == {
        *((float(steps), 0.3**steps) for steps in (1, 2, 4, 8)),
        (16.0, 0.0),
    }


def test_budgets_at_which_a_method_is_not_finite_stand_in_the_figure(load_rows: Any, synthetic: Any) -> None:
    curve = [["ridge", "scale", [[0.01, 0.5], [0.1, 0.1], [10.0, float("inf")]]]]
    suite = load_rows(
        [synthetic.row("ift_neumann", 0)], certificates=synthetic.certificates(ift_neumann={"curves": curve})
    )
    figure = budget_figure(suite)
    assert isinstance(figure, Figure)
    (panel,) = figure.panels
    assert [(failure.status, failure.x) for failure in panel.failures] == [("diverged", 10.0)]
    assert "diverged" in figure.to_csv() and "figure-error_budget" in render_page(suite)


def test_a_budget_of_zero_has_its_place_on_a_logarithmic_axis(load_rows: Any, synthetic: Any) -> None:
    curves = [["ridge", "steps", [[0, 0.9], [1, 0.5], [9, 0.01]]]]
    suite = load_rows([synthetic.row("ift_cg", 0)], certificates=synthetic.certificates(ift_cg={"curves": curves}))
    figure = budget_figure(suite)
    assert isinstance(figure, Figure)
    (panel,) = figure.panels
    assert (panel.x.name, panel.x.log) == ("steps + 1", True)
    assert [(point.x, point.note) for point in panel.points] == [(1, "steps=0"), (2, "steps=1"), (10, "steps=9")]


def test_a_curve_of_another_source_is_not_drawn(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row("ift_cg", 0)], certificates=synthetic.certificates(ift_cg=OTHER))
    assert not isinstance(budget_figure(suite), Figure)


def test_more_than_twenty_methods_are_told_apart_and_certified(
    load_rows: Any, synthetic: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [f"ift_{index}" for index in range(24)]
    monkeypatch.setattr(synthetic, "METHODS", dict.fromkeys(names, synthetic.METHODS["ift_cg"]))
    rows = [synthetic.row(name, seed) for name in names for seed in range(3)]
    load_rows(rows, certificates=synthetic.certificates(ift_3=FAILING))
    suite = load_suite(tmp_path / "results.parquet")
    assert len({(style.colour, style.marker) for style in suite.styles.values()}) == 24
    table = certificate_table(suite)
    assert len(table.rows) == 24
    figure = budget_figure(suite)
    assert isinstance(figure, Figure) and len(figure.panels[0].labels) == 24
    overview = next(table for table in blocks(suite, Table) if table.name == "overview")
    assert overview.certificates == "23 of 24 methods here are what they declare to be; † marks the others."
    written = {path.name for path in build_tables(tmp_path / "results.parquet", tmp_path / "tables")}
    assert {"certificates.csv", "certificates.tex"} <= written
    assert "FAILED: ift_3" in render_page(suite)


def test_methods_of_one_colour_differ_in_marker_among_their_first_options() -> None:
    methods = [f"m{index}" for index in range(3 * len(PALETTE))]
    labels = {f"{method}(k={variant})": method for method in methods for variant in range(4)}
    styles = assign_styles(methods, labels)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(labels)
