"""The tables: a row for everything that ran, its numbers exact in CSV, its LaTeX sound."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from metabench.report.build import blocks, build_tables
from metabench.report.numbers import ABSENT
from metabench.report.page.page import render_page
from metabench.report.results.entries import Suite
from metabench.report.results.frame import frame
from metabench.report.results.load import load_suite
from metabench.report.tables.setting import setting_table
from metabench.report.tables.table import Table, escape_latex


def _setting(suite: Suite, text: str, kind: str = "quality") -> Any:
    return next(setting for setting in suite.settings if text == setting.size and setting.kind == kind)


def test_every_method_of_a_setting_is_a_row_whatever_became_of_it(suite: Suite) -> None:
    for setting, entries in suite.settings.items():
        table = setting_table(suite, setting, entries)
        assert [row["label"].label for row in table.rows] == [entry.label for entry in entries]
        for row, entry in zip(table.rows, entries, strict=True):
            assert dict(row["status"].badges) == (entry.statuses if entry.failures else {})
            for status in entry.failures:
                assert entry.messages[status] in row["status"].text


def test_runs_of_all_tables_add_up_to_the_rows_of_the_suite(suite: Suite) -> None:
    coverage = next(table for table in blocks(suite, Table) if table.name == "coverage")
    counted = sum(number for row in coverage.rows for cell in row.values() for _, number in cell.badges)
    assert counted == len(suite.rows)


def test_ratios_are_to_the_baseline_and_absent_with_a_reason_where_it_failed(suite: Suite) -> None:
    mlp = suite.settings[_setting(suite, "mlp256")]
    baseline = next(entry for entry in mlp if entry.label == "unrolled")
    other = next(entry for entry in mlp if entry.label == "mixflow")
    assert baseline.memory_ratio == 1.0
    assert other.memory_ratio == other.peak_bytes / baseline.peak_bytes
    convnet = _setting(suite, "mlp1024")
    table = setting_table(suite, convnet, suite.settings[convnet])
    assert "memory_ratio" not in [column.key for column in table.columns]
    assert any("baseline 'unrolled' has no measurement here (oom)" in note for note in table.notes)


def test_the_baseline_is_the_suites_own_choice(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row(method, 0) for method in ("unrolled", "mixflow")]
    suite = load_rows(rows, **synthetic.metadata(baseline="mixflow"))
    assert {entry.label: entry.memory_ratio == 1.0 for entry in suite.entries} == {"unrolled": False, "mixflow": True}


def test_with_two_seeds_there_is_a_mean_and_no_interval(suite: Suite) -> None:
    setting = _setting(suite, "digits64")
    table = setting_table(suite, setting, suite.settings[setting])
    assert all("[" not in row["quality"].text for row in table.rows)
    assert all(record["quality_n"] == 2 and record["quality_low"] is None for record in table.records)


def test_cost_settings_have_no_column_of_quality(suite: Suite) -> None:
    setting = _setting(suite, "mlp256", "cost")
    table = setting_table(suite, setting, suite.settings[setting])
    assert not {"quality", "best", "baseline"} & {column.key for column in table.columns}
    assert "inner_steps" in [column.key for column in table.columns]


def test_bytes_are_written_in_binary_units_and_exactly_on_hover(suite: Suite) -> None:
    setting = _setting(suite, "mlp256")
    for row, entry in zip(
        setting_table(suite, setting, suite.settings[setting]).rows, suite.settings[setting], strict=True
    ):
        assert row["peak"].title == f"{entry.peak_bytes:,} bytes"
        assert row["peak"].text.endswith("MiB")
        assert row["peak"].sort == entry.peak_bytes


def test_a_seed_that_failed_before_its_first_batch_is_a_seed_of_its_cell(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("unrolled", seed) for seed in range(3)]
    rows += [synthetic.failed_row("unrolled", seed, "timeout", "limit") for seed in (3, 4)]
    rows += [synthetic.failed_row("mixflow", seed, "oom", "limit") for seed in range(5)]
    suite = load_rows(rows)
    unrolled, mixflow = suite.entries
    assert (unrolled.seeds, unrolled.ok, unrolled.batch) == (5, 3, 100)
    assert unrolled.statuses == {"ok": 3, "timeout": 2} and mixflow.statuses == {"oom": 5}
    table = setting_table(suite, unrolled.setting, suite.entries)
    assert "16 inner steps, 400 meta-updates, batches of 100." in table.caption
    assert "inner_steps" not in [column.key for column in table.columns]


def test_what_is_missing_from_a_finished_run_is_said_in_its_record(load_rows: Any, synthetic: Any) -> None:
    words = "no exact hypergradient: 2000 parameters pass the limit of 1000"
    suite = load_rows([synthetic.row("unrolled", seed, message=words) for seed in range(3)])
    (setting,) = suite.settings
    table = setting_table(suite, setting, suite.entries)
    assert [record["message"] for record in table.records] == [words]
    assert "status" not in [column.key for column in table.columns]


def test_what_draws_has_its_mean_draw_in_the_table(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row(method, 0) for method in ("unrolled", "evograd")])
    (setting,) = suite.settings
    table = setting_table(suite, setting, suite.settings[setting])
    assert {row["label"].label: row["cosine"].text for row in table.rows} == {"unrolled": "1", "evograd": "0.550"}
    assert "evograd draws at random: its cosine is that of the mean of 16 samples per seed" in " ".join(table.notes)
    records = {record["label"]: record for record in table.records}
    assert records["evograd"]["hypergradient_cosine"] == -0.2
    assert records["evograd"]["hypergradient_mean_cosine"] == 0.55
    assert records["unrolled"]["hypergradient_mean_cosine"] is None


def test_csv_gives_back_every_digit(results: Path, suite: Suite, tmp_path: Path) -> None:
    build_tables(results, tmp_path)
    entries = {(_key(entry.setting), entry.label, entry.inner_steps): entry for entry in suite.entries}
    found = 0
    for path in tmp_path.glob("setting-*.csv"):
        for record in csv.DictReader(path.open()):
            names = ("problem", "dataset", "size", "problem_variant", "experiment", "kind")
            where = tuple(record[name] for name in names)
            entry = entries[where, record["label"], int(record["inner_steps"])]
            found += 1
            quality = entry.quality
            assert _number(record["quality"]) == (quality.value if quality else None)
            assert _number(record["quality_low"]) == (quality.low if quality else None)
            assert _number(record["peak_bytes"]) == entry.peak_bytes
            assert _number(record["time_median_s"]) == entry.time_median
            assert _number(record["memory_ratio"]) == entry.memory_ratio
            assert _number(record["target_error"]) == entry.gradient["target_error"]
    assert found == len(suite.entries)


def _key(setting: Any) -> tuple[str, ...]:
    task = setting.task
    return (task.problem, task.dataset, setting.size, setting.problem_variant, setting.experiment, setting.kind)


def _number(text: str) -> float | None:
    return float(text) if text else None


def test_the_frame_of_all_results_is_the_tables_of_settings_one_below_the_other(suite: Suite) -> None:
    every = [record for table in blocks(suite, Table) if table.name.startswith("setting") for record in table.records]
    found = frame(suite)
    assert list(found.columns) == list(every[0])
    assert found["peak_bytes"].dropna().to_list() == [one["peak_bytes"] for one in every if one["peak_bytes"]]
    assert found["label"].to_list() == [one["label"] for one in every]


def assert_latex_is_sound(suite: Suite) -> None:
    for made in blocks(suite, Table):
        text = made.to_latex()
        for name in ("table", "tabular"):
            assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
        bare = re.sub(r"\\.", "", text)
        assert bare.count("{") == bare.count("}")
        body = text[text.index("\\toprule") : text.index("\\bottomrule")]
        assert not re.search(r"(?<!\\)[#_%]", body)
        columns = len(re.search(r"begin\{tabular\}\{([lr]+)\}", text).group(1))  # type: ignore[union-attr]
        for line in body.splitlines():
            if line.endswith("\\\\") and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == columns - 1


def test_latex_is_balanced_and_escaped(suite: Suite) -> None:
    assert_latex_is_sound(suite)


STRANGE = {
    "markup": "<b>$x_1$ & \\emph{50 %}</b> #~^\n{",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "long": "m" * 200,
}


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE)
def test_any_name_reaches_tables_and_latex(load_rows: Any, synthetic: Any, tmp_path: Path, name: str) -> None:
    rows = [
        synthetic.row(method, seed, problem_variant=f"noise={name}", dataset=data, metric=name)
        | {"label": f"{method}({name})"}
        for method in ("unrolled", "mixflow")
        for seed in range(3)
        for data in (name, f"{name}{name[-1]}")
    ]
    suite = load_rows(rows)
    assert_latex_is_sound(suite)
    made = blocks(suite, Table)
    assert len({table.name for table in made}) == len(made), "no table overwrites another"
    written = build_tables(tmp_path / "results.parquet", tmp_path / "tables")
    assert len(set(written)) == 2 * len(made) and all(path.is_file() for path in written)
    (setting, _) = (table for table in made if table.name.startswith("setting"))
    assert {row["label"].label for row in setting.rows} == {f"unrolled({name})", f"mixflow({name})"}
    records = list(csv.DictReader((tmp_path / "tables" / f"{setting.name}.csv").open(newline="")))
    assert {record["label"] for record in records} == {f"unrolled({name})", f"mixflow({name})"}
    overview = next(table for table in made if table.name == "overview")
    assert len([column for column in overview.columns if column.description.startswith("on ")]) == 2
    assert "<b>" not in render_page(suite)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 50 %", "a\\_b \\& 50 \\%"),
        ("3.0×10⁻¹⁶", "3.0$\\times$10$^{-16}$"),
        ("−1 ± 2 µs", "$-$1 $\\pm$ 2 \\textmu{}s"),
        ("{\\x}", "\\{\\textbackslash{}x\\}"),
    ],
)
def test_signs_become_latex(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


def test_an_empty_suite_has_tables_without_rows(empty_results: Path, tmp_path: Path) -> None:
    for table in blocks(load_suite(empty_results), Table):
        assert not table.rows and table.to_csv() and table.to_latex()
    assert build_tables(empty_results, tmp_path) is not None


def test_tables_are_the_same_bytes_every_time(results: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in build_tables(results, tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in build_tables(results, tmp_path / "b")}
    assert first == second


def test_a_point_that_a_method_proposes_has_a_column_where_there_is_one(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row(method, seed, problem="regularisation", parameters=100, dataset="digits")
        for method in ("unrolled", "t1t2")
        for seed in range(3)
    ]
    metric = rows[0]["metric"]
    plain = load_rows(rows)
    (setting,) = plain.settings
    assert all(column.key != "answer" for column in setting_table(plain, setting, plain.settings[setting]).columns)
    own = [row | {"metrics_answer": {metric: 0.5 + row["seed"]} if row["method"] == "t1t2" else None} for row in rows]
    answered = load_rows(own)
    table = setting_table(answered, setting, answered.settings[setting])
    shown = {row["label"].label: row["answer"].text for row in table.rows}
    assert shown == {"unrolled": ABSENT, "t1t2": "1.500"}
