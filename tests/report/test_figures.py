"""The figures: which there are, what they hold, and that failures are in them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from metabench.report.drawing.drawing import draw_svg
from metabench.report.drawing.palette import MARKERS, PALETTE, assign_styles, natural_key
from metabench.report.figures import all_figures, build_figures
from metabench.report.figures.figure import Figure, Missing
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite


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
    assert "95 % interval over seeds (Student's t" in _figures(suite, "quality_memory").caption
    assert "n = 5 seeds" in _figures(suite, "quality_memory").caption


def test_every_label_of_a_setting_is_in_its_panel_as_a_point_or_a_failure(suite: Suite) -> None:
    figure = _figures(suite, "quality_memory")
    settings = [setting for setting in suite.settings if setting.task == figure.task and setting.kind == "quality"]
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
    for size, parameters in (("mlp64", 1000), ("mlp256", 10_000), ("mlp1024", 100_000)):
        rows.append(
            synthetic.row("unrolled", 0, size=size, kind="cost", parameters=parameters, peak_bytes=7 * parameters)
        )
    figure = _figures(load_rows(rows), "scaling_size")
    assert figure.panels[0].notes["unrolled"] == "b = 1.000 ± 0.000 (3 sizes)"


def test_families_of_models_have_exponents_of_their_own(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row("unrolled", 0, size=size, kind="cost", parameters=parameters, peak_bytes=peak)
        for size, parameters, peak in (
            ("mlp64", 1000, 1000),
            ("mlp256", 10_000, 10_000),
            ("mlp1024", 100_000, 100_000),
            ("conv8", 2000, 4_000_000),
            ("conv16", 8000, 8_000_000),
            ("conv32", 32_000, 16_000_000),
            ("resnet18", 5000, 7),
        )
    ]
    figure = _figures(load_rows(rows), "scaling_size")
    notes = {panel.title: panel.notes["unrolled"] for panel in figure.panels if panel.y.kind == "bytes"}
    assert {title.split(" · ")[1]: note for title, note in notes.items()} == {
        "mlp family": "b = 1.000 ± 0.000 (3 sizes)",
        "conv family": "b = 0.500 ± 0.000 (3 sizes)",
    }
    records = list(csv.DictReader(figure.to_csv().splitlines()))
    assert {(record["note"], record["fit"]) for record in records if "Memory · conv family" in record["panel"]} == {
        (f"conv{width}, K=16", "b = 0.500 ± 0.000 (3 sizes)") for width in (8, 16, 32)
    }
    assert not any("resnet" in record["note"] for record in records)


def test_a_method_that_draws_is_shown_by_its_mean_draw(suite: Suite) -> None:
    figure = _figures(suite, "error_cost")
    cosines = [panel for panel in figure.panels if panel.title.startswith("Cosine")]
    errors = [panel for panel in figure.panels if panel.title.startswith("Error")]
    drawn = [point for panel in cosines for point in panel.points if point.label == "evograd"]
    assert drawn and all(point.y == pytest.approx(1 - 0.55) and "mean draw" in point.note for point in drawn)
    assert any("scale included" in point.note for panel in errors for point in panel.points if point.label == "evograd")
    assert "evograd draws at random" in figure.caption and "n = 16 samples" in figure.caption
    assert "scale of its step" in figure.caption


def test_bars_of_time_are_said_to_be_quartiles_within_seeds(suite: Suite) -> None:
    for kind in ("quality_time", "scaling_size", "scaling_steps"):
        assert "medians over seeds of each seed's quartiles" in _figures(suite, kind).caption


def test_a_long_name_of_an_axis_is_wrapped(load_rows: Any, synthetic: Any) -> None:
    name = "outer loss at the inner minimum"
    rows = [synthetic.row(method, 0, metric=name, direction="min") for method in ("unrolled", "mixflow")]
    suite = load_rows(rows)
    drawing = draw_svg(_figures(suite, "quality_memory").panels[0], suite.styles, "one")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>|<tspan[^>]*>([^<]*)</tspan>", drawing)
    lines = {first or second for first, second in texts}
    assert name in lines and "(lower is better)" in lines


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
            {**row, "problem_variant": f"rate={index % 40}", "cell": f"{index:08d}"}
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
