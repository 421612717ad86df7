"""Rows of different kernels or hardware are never brought together: their tables, figures and ratios stand apart, and the page says so."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest

from metabench.report.blocks import Note
from metabench.report.figures.prediction import comparisons, prediction_sentence
from metabench.report.results.entries import Suite
from metabench.report.results.provenance import facts, warnings
from metabench.report.results.settings import Place
from metabench.report.section import contents
from metabench.report.sections.memory_study.study import memory_study
from metabench.report.tables.setting import setting_table

NATIVE = {"kernels": "native", "instruction_set": "AVX-512"}
UNKNOWN = {"kernels": None, "instruction_set": None}
ELSEWHERE = {"hardware": "Intel Xeon (family 6, model 143), AVX-512, 8 cores"}


def measured(synthetic: Any, changes: dict[str, Any], factor: int = 1) -> list[dict[str, Any]]:
    """Return three seeds of two methods at another place, their bytes and seconds some times as large.

    Their cells are others: a table of results has no cell twice.
    """
    rows = [synthetic.row(method, seed) for method in ("unrolled", "t1t2") for seed in range(3)]
    cost = ("peak_bytes", "dynamic_bytes", "static_bytes", "time_median_s")
    return [
        row | {name: factor * row[name] for name in cost} | changes | {"cell": _other_cell(row, changes)}
        for row in rows
    ]


def _other_cell(row: dict[str, Any], changes: dict[str, Any]) -> str:
    return hashlib.sha256(f"{row['cell']}{changes}".encode()).hexdigest()[:8] if changes else row["cell"]


@pytest.mark.parametrize("changes", [NATIVE, UNKNOWN, ELSEWHERE, {"instruction_set": "baseline (oneDNN: AVX)"}])
def test_places_have_entries_tables_and_ratios_of_their_own(
    load_rows: Any, synthetic: Any, changes: dict[str, Any]
) -> None:
    here, there = measured(synthetic, {}), measured(synthetic, changes, 3)
    suite = load_rows(here + there)
    assert len(suite.settings) == len(set(suite.titles.values())) == 2
    for setting, entries in suite.settings.items():
        assert [entry.seeds for entry in entries] == [3, 3]
        mine = here if setting.place == Place.of(here[0]) else there
        largest = {
            method: max(r["peak_bytes"] for r in mine if r["method"] == method) for method in ("unrolled", "t1t2")
        }
        assert {entry.label: entry.peak_bytes for entry in entries} == largest
        ratio = next(entry.memory_ratio for entry in entries if entry.label == "t1t2")
        assert ratio == largest["t1t2"] / largest["unrolled"]
    assert len(warnings(suite)) == 1


def test_a_method_without_its_baseline_at_its_own_place_has_no_ratio(load_rows: Any, synthetic: Any) -> None:
    here = [row for row in measured(synthetic, {}) if row["method"] == "unrolled"]
    there = [row for row in measured(synthetic, NATIVE) if row["method"] == "t1t2"]
    (alone,) = [entry for entry in load_rows(here + there).entries if entry.label == "t1t2"]
    assert alone.memory_ratio is alone.time_ratio is None


def warned(suite: Suite) -> list[str]:
    """Return what the answer warns of before anything is compared."""
    (answer,) = (part for part in contents(suite) if part.name == "answer")
    first = list(itertools.takewhile(lambda block: isinstance(block, Note) and block.warns, answer.blocks))
    return [block.text for block in first if isinstance(block, Note)]


def test_the_top_of_the_page_says_that_kernels_differ(load_rows: Any, synthetic: Any) -> None:
    (words,) = warned(load_rows(measured(synthetic, {}) + measured(synthetic, NATIVE)))
    assert "different CPU kernels (native kernels (AVX-512), portable kernels (AVX2))" in words
    assert "hardware" not in words


def test_the_top_of_the_page_says_that_hardware_differs(load_rows: Any, synthetic: Any) -> None:
    (words,) = warned(load_rows(measured(synthetic, {}) + measured(synthetic, ELSEWHERE)))
    assert "different hardware" in words


@pytest.mark.parametrize(("load", "busy"), [(3.5, False), (3.6, True), (None, False)])
def test_the_top_of_the_page_says_that_the_machine_was_busy(
    load_rows: Any, synthetic: Any, load: float | None, busy: bool
) -> None:
    """The rows' processor gives two cores, each with a cell and the process beside it, and a cell that has just ended counts for a half."""
    rows = measured(synthetic, {})
    rows[0]["load_at_start"] = load
    words = warned(load_rows(rows))
    assert words == busy * [
        "The machine was busy when 1 of 6 runs began: a load of up to 3.6 on 2 cores. Their times may tell of that."
    ]


def test_rows_of_one_place_are_warned_of_nothing(load_rows: Any, synthetic: Any) -> None:
    assert warnings(load_rows(measured(synthetic, {}))) == []


def test_titles_and_records_name_the_kernels_and_whose_bytes_native_ones_take(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(measured(synthetic, {}) + measured(synthetic, NATIVE) + measured(synthetic, UNKNOWN))
    tables = {
        setting.place.kernels: setting_table(suite, setting, entries) for setting, entries in suite.settings.items()
    }
    assert tables["portable"].title.endswith(" · portable kernels (AVX2)")
    assert tables["native"].title.endswith(" · native kernels (AVX-512)")
    assert tables[""].title.endswith(" · kernels not recorded")
    for kernels, table in tables.items():
        assert {(record["kernels"], record["hardware"]) for record in table.records} == {(kernels, synthetic.HARDWARE)}
    told = dict(facts(suite))["CPU kernels"]
    assert told == "native kernels (AVX-512), whose bytes are those of AVX-512, portable kernels (AVX2)"


def test_rows_of_a_gpu_have_no_cpu_kernels(load_rows: Any, synthetic: Any) -> None:
    gpu = {"device": "cuda", "hardware": "a GPU, 80 GiB", "instruction_set": ""}
    suite = load_rows(
        measured(synthetic, gpu) + measured(synthetic, gpu | {"kernels": "native", "experiment": "other"})
    )
    assert {setting.place.kernels for setting in suite.settings} == {""}
    assert warnings(suite) == []
    assert dict(facts(suite))["CPU kernels"] == "not recorded"


def test_predictions_are_compared_with_what_was_measured_at_their_own_place(load_rows: Any, synthetic: Any) -> None:
    note = "workspaces of convolutions are not counted: not known for AVX-512"
    here = [synthetic.row("unrolled", 0, peak_bytes=1_000, predicted_bytes=1_000, prediction_note="")]
    there = [synthetic.row("unrolled", 1, peak_bytes=1_500, predicted_bytes=900, prediction_note=note, **NATIVE)]
    found = comparisons(load_rows(here + there))
    assert [(one.measured, one.predicted, one.note) for one in found] == [(1_000, 1_000, ""), (1_500, 900, note)]
    assert prediction_sentence(found).endswith(f"by −40.0 %. For 1 cell, {note}.")


def test_the_memory_study_compares_within_a_place(load_rows: Any) -> None:
    from tests.report import study_rows

    rows = [study_rows.row(method, steps) for method in ("unrolled", "mixflow") for steps in (2, 4, 8)]
    native = [
        row | NATIVE | {"dynamic_bytes": 2 * row["dynamic_bytes"], "cell": _other_cell(row, NATIVE)} for row in rows
    ]
    study = memory_study(load_rows(rows + native, suite="studies: {memory: {subject: mixflow}}"))
    assert study is not None
    assert len(study.runs) == 6
    for comparison in study.comparisons:
        assert comparison.run.setting.place == comparison.reference.setting.place
