"""The figures: which there are, what they hold, and that failures are in them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from metabench.report.entries import Suite, load_suite
from metabench.report.figures import all_figures, build_figures
from metabench.report.panel import Figure, Missing
from metabench.report.style import MARKERS, PALETTE, assign_styles, natural_key


def _figures(suite: Suite, kind: str, problem: str = "label_noise") -> Any:
    return next(figure for figure in all_figures(suite) if figure.kind == kind and figure.task.problem == problem)


def test_a_figure_that_the_rows_do_not_warrant_says_why(suite: Suite) -> None:
    found = _figures(suite, "scaling_size", "regularisation")
    assert isinstance(found, Missing) and "fewer than 3 sizes" in found.reason


def test_captions_say_n_interval_hardware_number_type_and_source_of_memory(suite: Suite, synthetic: Any) -> None:
    for figure in all_figures(suite):
        if isinstance(figure, Figure):
            for words in ("n = ", synthetic.HARDWARE, "float32", "CPU allocator events"):
                assert words in figure.caption
    assert "95 % bootstrap interval over seeds" in _figures(suite, "quality_memory").caption
    assert "n = 5 seeds" in _figures(suite, "quality_memory").caption


def test_every_label_of_a_setting_is_in_its_panel_as_a_point_or_a_failure(suite: Suite) -> None:
    figure = _figures(suite, "quality_memory")
    settings = [setting for setting in suite.settings if setting.task == figure.task and setting.purpose == "quality"]
    for panel, setting in zip(figure.panels, settings, strict=True):
        assert set(panel.labels) == {entry.label for entry in suite.settings[setting]}
    assert {(failure.label, failure.status) for failure in figure.panels[2].failures} == {
        ("unrolled", "oom"),
        ("ift_neumann", "diverged"),
        ("ift_cg", "timeout"),
    }


def test_failures_stand_at_their_place_where_the_axis_has_one(suite: Suite) -> None:
    memory = _figures(suite, "scaling_steps").panels[0]
    assert {(failure.label, failure.status, failure.x) for failure in memory.failures} == {
        ("unrolled", "oom", 64),
        ("unrolled", "oom", 128),
        ("ift_cg", "timeout", 128),
        ("evograd", "error", 2),
    }
    sizes = _figures(suite, "scaling_size")
    widest = [failure for panel in sizes.panels for failure in panel.failures if failure.x == 1_663_370]
    assert {failure.label for failure in widest} == {"unrolled", "unrolled_remat"}


def test_the_fitted_exponent_is_that_of_the_rows(load_rows: Any, synthetic: Any) -> None:
    rows = []
    for size, parameters in (("mlp_small", 1000), ("mlp", 10_000), ("convnet", 100_000)):
        rows.append(
            synthetic.row("unrolled", 0, size=size, purpose="cost", parameters=parameters, peak_bytes=7 * parameters)
        )
    figure = _figures(load_rows(rows), "scaling_size")
    assert figure.panels[0].notes["unrolled"] == "b = 1.000 ± 0.000 (3 sizes)"


def test_options_of_one_method_are_joined_in_the_figure_of_errors(suite: Suite) -> None:
    panel = _figures(suite, "error_cost").panels[0]
    (line,) = panel.lines
    assert [point.label for point in line] == [f"truncated(window={window})" for window in (1, 2, 4)] + [
        "truncated",
        "truncated(window=16)",
    ]


def test_files_hold_all_data_and_are_the_same_bytes_every_time(load_rows: Any, synthetic: Any, tmp_path: Path) -> None:
    rows = [synthetic.row(method, seed) for method in ("none", "unrolled", "mixflow") for seed in range(3)]
    rows += [synthetic.row("evograd", seed, status="oom", message="limit") for seed in range(3)]
    load_rows(rows)
    results = tmp_path / "results.parquet"
    first = {path.name: path.read_bytes() for path in build_figures(results, tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in build_figures(results, tmp_path / "b")}
    assert first == second
    name = "quality_memory-label_noise-fashion_mnist_10k"
    assert first[f"{name}.pdf"].startswith(b"%PDF") and first[f"{name}.png"].startswith(b"\x89PNG")
    records = list(csv.DictReader((tmp_path / "a" / f"{name}.csv").open()))
    assert {(record["label"], record["status"]) for record in records} == {
        ("none", "ok"),
        ("unrolled", "ok"),
        ("mixflow", "ok"),
        ("evograd", "oom"),
    }
    by_label = {entry.label: entry for entry in load_suite(results).entries}
    for record in records:
        entry = by_label[record["label"]]
        if entry.quality:
            assert float(record["y"]) == entry.quality.value and int(float(record["x"])) == entry.peak_bytes


def test_a_large_suite_draws_few_panels_and_keeps_all_data(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows(
        [
            {**row, "problem_options": f"rate={index % 40}", "cell": f"{index:08d}"}
            for index, row in enumerate(synthetic.many_rows(600))
        ]
    )
    figures = [figure for figure in all_figures(suite) if isinstance(figure, Figure)]
    for figure in figures:
        assert len(figure.panels) <= 12
        if figure.omitted:
            assert "panels are left out here" in figure.full_caption
            assert figure.omitted[-1].title in figure.to_csv()
    assert any(figure.omitted for figure in figures)


def test_an_empty_suite_has_no_figures(empty_results: Path, tmp_path: Path) -> None:
    assert build_figures(empty_results, tmp_path) == []


def test_a_method_keeps_its_colour_whoever_else_is_there() -> None:
    methods = ["none", "unrolled", "mixflow", "evograd"]
    alone = assign_styles(methods, {"evograd": "evograd"})
    together = assign_styles(methods, {name: name for name in methods})
    assert alone["evograd"] == together["evograd"]


def test_no_two_labels_look_alike() -> None:
    methods = [f"m{index}" for index in range(len(PALETTE))]
    labels = {f"{method}(k={variant})": method for method in methods for variant in range(len(MARKERS))}
    styles = assign_styles(methods, labels)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(labels)
    first = assign_styles(methods, {method: method for method in methods})
    assert len({style.marker for style in first.values()}) == len(methods)


@pytest.mark.parametrize(
    ("smaller", "larger"), [("k=2", "k=16"), ("lr=0.01", "lr=0.1"), ("lr=1e-3", "lr=0.5"), ("a", "b")]
)
def test_options_are_ordered_as_numbers(smaller: str, larger: str) -> None:
    assert natural_key(smaller) < natural_key(larger)
