"""Predicted against measured memory: one point a cell, how many are near enough, and nothing where nothing was predicted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from metabench.report.build import build_figures
from metabench.report.figure import Figure
from metabench.report.figures.prediction import WITHIN, comparisons, prediction_figure, prediction_sentence
from metabench.report.page.page import render_page
from metabench.report.results.entries import Suite
from metabench.results.store import collect, write_rows


def rows_with(synthetic: Any, **ratios: float) -> list[dict[str, Any]]:
    """Return two seeds of each method, predicted to need a multiple of the largest that was measured."""
    rows = []
    for method, ratio in ratios.items():
        for seed, peak in enumerate((900_000, 1_000_000)):
            rows.append(synthetic.row(method, seed, peak_bytes=peak, predicted_bytes=round(ratio * 1_000_000)))
    return rows


def figure_of(suite: Suite) -> Figure:
    figure = prediction_figure(suite)
    assert figure is not None
    return figure


def test_a_cell_is_one_point_its_largest_seed_against_its_prediction(load_rows: Any, synthetic: Any) -> None:
    figure = figure_of(load_rows(rows_with(synthetic, unrolled=1.0, mixflow=1.04, t1t2=0.9)))
    (panel,) = figure.panels
    assert [(point.label, point.x) for point in panel.points] == [
        ("unrolled", 1_000_000),
        ("mixflow", 1_000_000),
        ("t1t2", 1_000_000),
    ]
    assert [point.y for point in panel.points] == pytest.approx([1.0, 1.04, 0.9])
    assert panel.title == "cpu · 2 of 3 cells within 5 %"


def test_lines_to_compare_with_are_equality_and_the_band_around_it(load_rows: Any, synthetic: Any) -> None:
    (panel,) = figure_of(load_rows(rows_with(synthetic, unrolled=1.0))).panels
    band = {1.0, 1.0 - WITHIN, 1.0 + WITHIN}
    assert {(rule.along, rule.value) for rule in panel.rules} == {("x", value) for value in band}


def test_devices_have_panels_of_their_own(load_rows: Any, synthetic: Any) -> None:
    rows = rows_with(synthetic, unrolled=1.0) + [
        row | {"device": "cuda", "cell": "00000001"} for row in rows_with(synthetic, mixflow=1.2)
    ]
    titles = [panel.title for panel in figure_of(load_rows(rows)).whole.panels]
    assert titles == ["cpu · 1 of 1 cell within 5 %", "cuda · 0 of 1 cell within 5 %"]


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        ({"unrolled": 1.0}, "1 of 1 cell within 5 %, each to the byte."),
        ({"unrolled": 1.0, "t1t2": 0.9}, "1 of 2 cells within 5 %; the worst, t1t2 on label_noise/"),
        ({"unrolled": 1.05, "t1t2": 1.0}, "2 of 2 cells within 5 %; the worst, unrolled on label_noise/"),
    ],
)
def test_a_sentence_counts_the_cells_that_are_near_enough(
    load_rows: Any, synthetic: Any, ratios: dict[str, float], sentence: str
) -> None:
    assert sentence in prediction_sentence(comparisons(load_rows(rows_with(synthetic, **ratios))))


def test_the_worst_says_on_which_side_it_lies(load_rows: Any, synthetic: Any) -> None:
    low = prediction_sentence(comparisons(load_rows(rows_with(synthetic, t1t2=0.9))))
    assert low.endswith("by −10.0 %.")
    high = prediction_sentence(comparisons(load_rows(rows_with(synthetic, t1t2=1.2))))
    assert high.endswith("by +20.0 %.")


def test_what_was_not_measured_or_not_predicted_has_no_point(load_rows: Any, synthetic: Any) -> None:
    rows = rows_with(synthetic, unrolled=1.0)
    rows += [synthetic.row("mixflow", 0, status="unsupported", message="too large", predicted_bytes=2**40)]
    rows += [synthetic.row("t1t2", 0)]
    assert [one.label for one in comparisons(load_rows(rows))] == ["unrolled"]


def test_the_page_says_it_and_the_files_are_written(tmp_path: Path, synthetic: Any, load_rows: Any) -> None:
    rows = rows_with(synthetic, unrolled=1.0, mixflow=1.04)
    page = render_page(load_rows(rows))
    section = page[page.index('<section id="measurement">') : page.index('<section id="coverage">')]
    assert "2 of 2 cells within 5 %" in section
    assert section.count('role="img"') == 1
    assert 'href="#measurement"' in page
    for index, row in enumerate(rows):
        write_rows(tmp_path / f"{index}.parquet", [row])
    results = collect([tmp_path / f"{index}.parquet" for index in range(len(rows))], tmp_path / "results.parquet")
    written = {path.name for path in build_figures(results.parquet, tmp_path / "figures")}
    assert {f"predicted_memory.{suffix}" for suffix in ("pdf", "png", "csv")} <= written
    with (tmp_path / "figures" / "predicted_memory.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_without_predictions_nothing_is_said_of_them(suite: Suite) -> None:
    assert prediction_figure(suite) is None
    assert prediction_sentence(comparisons(suite)) == ""
    assert 'id="measurement"' not in render_page(suite)
