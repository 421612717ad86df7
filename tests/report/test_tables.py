"""The tables: a row for everything that ran, its numbers exact in CSV, its LaTeX sound."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from metabench.report.results.entries import Suite
from metabench.report.tables import all_tables, build_tables
from metabench.report.tables.setting import setting_table
from metabench.report.tables.table import escape_latex


def _setting(suite: Suite, text: str, kind: str = "quality") -> Any:
    return next(setting for setting in suite.settings if text == setting.size and setting.kind == kind)


def test_every_method_of_a_setting_is_a_row_whatever_became_of_it(suite: Suite) -> None:
    for setting, entries in suite.settings.items():
        table = setting_table(suite, setting, entries)
        assert [row["label"].text for row in table.rows] == [entry.label for entry in entries]
        for row, entry in zip(table.rows, entries, strict=True):
            assert dict(row["status"].badges) == entry.statuses
            for message in entry.messages.values():
                assert message in row["status"].text


def test_runs_of_all_tables_add_up_to_the_rows_of_the_suite(suite: Suite) -> None:
    coverage = next(table for table in all_tables(suite) if table.name == "coverage")
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
    assert all("[" not in row["quality"].text and row["n"].text == "2" for row in table.rows)


def test_cost_settings_have_no_column_of_quality(suite: Suite) -> None:
    setting = _setting(suite, "mlp256", "cost")
    table = setting_table(suite, setting, suite.settings[setting])
    assert not {"quality", "difference", "n"} & {column.key for column in table.columns}
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
    assert "batches of 100" in table.caption
    assert "inner_steps" not in [column.key for column in table.columns]


def test_what_is_missing_from_a_finished_run_is_said_in_its_row(load_rows: Any, synthetic: Any) -> None:
    words = "no exact hypergradient: 2000 parameters pass the limit of 1000"
    suite = load_rows([synthetic.row("unrolled", seed, message=words) for seed in range(3)])
    (setting,) = suite.settings
    (row,) = setting_table(suite, setting, suite.entries).rows
    assert words in row["status"].text and row["status"].badges == (("ok", 3),)


def test_what_draws_has_its_spread_and_its_mean_draw_in_the_table(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row(method, 0) for method in ("unrolled", "evograd")])
    (setting,) = suite.settings
    table = setting_table(suite, setting, suite.settings[setting])
    cells = {row["label"].text: row for row in table.rows}
    assert cells["evograd"]["hypergradient_cosine"].text == "−0.20 ± 0.90"
    assert cells["evograd"]["hypergradient_mean_cosine"].text == "0.550"
    assert cells["unrolled"]["hypergradient_mean_cosine"].text == "–"
    assert "n = 16 samples per seed" in table.caption
    exact = load_rows([synthetic.row("unrolled", 0)])
    keys = [column.key for column in setting_table(exact, setting, exact.entries).columns]
    assert "hypergradient_cosine" in keys and "hypergradient_mean_cosine" not in keys


def test_intervals_say_what_they_are(suite: Suite) -> None:
    trained = [table for table in all_tables(suite) if "Quality: mean and" in table.caption]
    assert trained
    for table in trained:
        assert "95 % interval over seeds (Student's t, widened for skewed data; none below 3 seeds)" in table.caption


def test_csv_gives_back_every_digit(results: Path, suite: Suite, tmp_path: Path) -> None:
    build_tables(results, tmp_path)
    found = 0
    for path in tmp_path.glob("setting-*.csv"):
        for record in csv.DictReader(path.open()):
            entry = next(
                entry
                for entry in suite.entries
                if (
                    entry.setting.task.problem,
                    entry.setting.size,
                    entry.setting.experiment,
                    entry.label,
                    str(entry.inner_steps),
                )
                == (record["problem"], record["size"], record["experiment"], record["label"], record["inner_steps"])
            )
            found += 1
            assert (float(record["quality"]) if record["quality"] else None) == (
                entry.quality.value if entry.quality else None
            )
            assert (int(record["peak_bytes"]) if record["peak_bytes"] else None) == entry.peak_bytes
            assert (float(record["time_median_s"]) if record["time_median_s"] else None) == entry.time_median
    assert found == len(suite.entries)


def test_latex_is_balanced_and_escaped(results: Path, tmp_path: Path) -> None:
    for path in build_tables(results, tmp_path):
        if path.suffix != ".tex":
            continue
        text = path.read_text()
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


def test_an_empty_suite_has_its_tables(empty_results: Path, tmp_path: Path) -> None:
    names = {path.name for path in build_tables(empty_results, tmp_path)}
    assert {"answer-quality.csv", "methods.tex", "coverage.csv", "failures.tex"} <= names


def test_tables_are_the_same_bytes_every_time(results: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in build_tables(results, tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in build_tables(results, tmp_path / "b")}
    assert first == second
