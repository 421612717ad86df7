"""The figures of curves: every curve of every run is in one, whatever it is called, and what has none is named."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from metabench.core.curves import Curve
from metabench.report.build import build_figures
from metabench.report.drawing.drawing import draw_figure, draw_svg
from metabench.report.figure import PANELS_OF_A_FILE, Figure
from metabench.report.figures.curves import curve_figures
from metabench.report.page.page import render_page
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite

STEPS = (0.0, 1.0, 2.0)


def curve(*values: float, **changes: Any) -> Curve:
    return dataclasses.replace(Curve(STEPS[: len(values)], values, "nat", "outer step"), **changes)


def _figures(suite: Suite) -> list[Figure]:
    return [figure for task in suite.tasks for figure in curve_figures(suite, task)]


@pytest.fixture
def figures_of(load_rows: Any, synthetic: Any) -> Any:
    """A function from [(method, seed, curves, changes of the row), ...] to the figures that they make."""

    def make(*runs: tuple[Any, ...]) -> list[Figure]:
        rows = [synthetic.row(method, seed, curves=curves, **dict(*rest)) for method, seed, curves, *rest in runs]
        return _figures(load_rows(rows))

    return make


def test_every_name_of_a_curve_has_a_figure_for_each_task(suite: Suite) -> None:
    assert [(figure.name, len(figure.panels)) for figure in _figures(suite)] == [
        ("curve-outer-loss-label_noise-fashion_mnist_10k", 2),
        ("curve-time-label_noise-fashion_mnist_10k", 0),
        ("curve-outer-loss-regularisation-digits", 2),
        ("curve-time-regularisation-digits", 0),
    ]


def test_every_run_with_a_curve_is_in_a_panel_and_every_failed_one_without_beside_it(suite: Suite) -> None:
    figure = _figures(suite)[0]
    settings = {suite.titles[one]: one for one in suite.settings if one.task.problem == "label_noise" and one.trains}
    panels = figure.panels + figure.omitted
    assert [panel.title.removesuffix(" · K = 16") for panel in panels[::2]] == list(settings)[::-1]
    for panel in panels:
        for entry in suite.settings[settings[panel.title.removesuffix(" · K = 16")]]:
            drawn = sum(trace.n for trace in panel.traces if trace.label == entry.label)
            missing = {one.status: one.runs for one in panel.failures if one.label == entry.label}
            assert (drawn, missing) == (entry.ok, entry.failures)


def test_the_outer_loss_stands_beside_itself_against_the_seconds_of_training(figures_of: Any) -> None:
    clocks = [(1.0, 2.0, 4.0), (3.0, 5.0, 5.0), (2.0, 9.0, 6.0)]
    runs = [
        ("unrolled", seed, {"outer loss": curve(3.0, 2.0, 1.0 + seed), "time": curve(*clock, unit="s")})
        for seed, clock in enumerate(clocks)
    ]
    steps, seconds = figures_of(*runs)[0].panels
    assert (steps.x.name, seconds.x.name, seconds.x.kind) == ("outer step", "training time", "seconds")
    assert [trace.x for trace in steps.traces] == [STEPS] and [trace.x for trace in seconds.traces] == [(2.0, 5.0, 5.0)]
    assert steps.traces[0].y == seconds.traces[0].y == (3.0, 2.0, 2.0)
    assert seconds.traces[0].high == (3.0, 2.0, 3.0)


def test_without_the_time_of_every_run_there_is_no_panel_against_seconds(figures_of: Any) -> None:
    timed = {"outer loss": curve(3.0, 2.0), "time": curve(1.0, 2.0, unit="s")}
    loss, _ = figures_of(("unrolled", 0, timed), ("mixflow", 0, {"outer loss": curve(3.0, 2.0)}))
    assert [panel.x.name for panel in loss.panels] == ["outer step"]


def test_a_line_is_the_median_over_seeds_and_its_band_goes_from_the_least_to_the_greatest(figures_of: Any) -> None:
    values = [(3.0, 1.0, 2.0), (5.0, 0.0, 2.0), (1.0, 4.0, 2.0)]
    (figure,) = figures_of(*(("unrolled", seed, {"loss": curve(*one)}) for seed, one in enumerate(values)))
    ((trace,),) = (panel.traces for panel in figure.panels)
    assert (trace.x, trace.y, trace.n) == (STEPS, (3.0, 1.0, 2.0), 3)
    assert (trace.low, trace.high) == ((1.0, 0.0, 2.0), (5.0, 4.0, 2.0))
    assert figure.caption.startswith("Medians over n = 3 seeds; bands: least to greatest.")


def test_a_single_seed_has_its_own_quartiles(figures_of: Any) -> None:
    one = curve(2.0, 1.0, lower=(1.0, 0.5), upper=(3.0, 2.0), n=20)
    (figure,) = figures_of(("unrolled", 0, {"loss": one}), ("mixflow", 0, {"loss": curve(2.0, 1.0)}))
    with_quartiles, without = figure.panels[0].traces
    assert (with_quartiles.low, with_quartiles.high) == ((1.0, 0.5), (3.0, 2.0))
    assert (without.low, without.high) == ((), ())
    assert "quartiles over tasks" in figure.caption and "least" not in figure.caption


def test_seeds_with_other_x_have_lines_of_their_own(figures_of: Any) -> None:
    runs = [("unrolled", seed, {"loss": curve(2.0, 1.0, 0.0)}) for seed in (0, 1)]
    stopped = ("unrolled", 2, {"loss": curve(2.0, 9.0)}, {"status": "diverged", "message": "nan"})
    (figure,) = figures_of(*runs, stopped)
    assert [(trace.x, trace.n) for trace in figure.panels[0].traces] == [(STEPS, 2), (STEPS[:2], 1)]
    assert figure.panels[0].failures == []


@pytest.mark.parametrize(
    ("one", "x", "y"),
    [
        (curve(2.0, 1.0, 0.5), ("outer step", "count", False), ("loss (nat)", "plain", False)),
        (curve(2.0, 1.0, 0.5, unit="s"), ("outer step", "count", False), ("loss", "seconds", False)),
        (curve(2.0, 1.0, 0.5, unit="B"), ("outer step", "count", False), ("loss", "bytes", False)),
        (curve(2.0, 1.0, 0.5, unit=""), ("outer step", "count", False), ("loss", "plain", False)),
        (curve(200.0, 1.0, 0.5), ("outer step", "count", False), ("loss (nat)", "error", True)),
        (curve(9.0, 1.0, 0.5, log_y=True), ("outer step", "count", False), ("loss (nat)", "error", True)),
        (curve(9.0, 1.0, 0.5), ("outer step", "count", False), ("loss (nat)", "plain", False)),
        (curve(200.0, 1.0, 0.5, log_y=True), ("outer step", "count", False), ("loss (nat)", "error", True)),
        (curve(2.0, 1.0, 0.5, log_y=True), ("outer step", "count", False), ("loss (nat)", "plain", False)),
        (curve(200.0, 1.0, 0.0, log_y=True), ("outer step", "count", False), ("loss (nat)", "plain", False)),
        (
            Curve((1e-3, 1e-2, 0.1), (2.0, 1.0, 0.5), along="rate", log_x=True),
            ("rate", "error", True),
            ("loss", "plain", False),
        ),
    ],
)
def test_axes_have_units_and_are_logarithmic_over_decades_and_where_that_is_asked_for(
    figures_of: Any, one: Curve, x: Any, y: Any
) -> None:
    (figure,) = figures_of(("unrolled", 0, {"loss": one}))
    (panel,) = figure.panels
    assert (panel.x.name, panel.x.kind, panel.x.log) == x
    assert (panel.y.name, panel.y.kind, panel.y.log) == y


def test_curves_of_one_name_along_other_things_are_in_panels_of_their_own(figures_of: Any) -> None:
    (figure,) = figures_of(
        ("unrolled", 0, {"loss": curve(2.0, 1.0)}), ("mixflow", 0, {"loss": curve(2.0, 1.0, along="time (s)")})
    )
    assert [(panel.x.name, panel.labels) for panel in figure.panels + figure.omitted] == [
        ("outer step", ["unrolled"]),
        ("time (s)", ["mixflow"]),
    ]


def test_inner_and_outer_steps_are_told_apart(figures_of: Any) -> None:
    steps = [{"inner_steps": 4}, {"inner_steps": 8}, {"inner_steps": 8, "outer_steps": 7, "cell": "0000000a"}]
    (figure,) = figures_of(*(("unrolled", 0, {"loss": curve(1.0)}, changes) for changes in steps))
    assert [panel.title.split(" · ")[2:] for panel in figure.panels + figure.omitted] == [
        ["K = 4"],
        ["K = 8", "7 outer steps"],
        ["K = 8", "400 outer steps"],
    ]


def test_the_page_shows_one_panel_of_a_problems_own_curve_and_the_csv_has_all(load_rows: Any, synthetic: Any) -> None:
    rows = [
        synthetic.row("unrolled", 0, problem_variant=f"rate=0.{index}", curves={"loss": curve(1.0, 0.5)})
        for index in range(100, 100 + PANELS_OF_A_FILE + 2)
    ]
    (figure,) = _figures(load_rows(rows))
    assert (len(figure.panels), len(figure.whole.panels)) == (1, PANELS_OF_A_FILE)
    assert figure.full_caption.endswith(f"1 of {PANELS_OF_A_FILE + 2} panels; the CSV has all.")
    assert len({record["panel"] for record in csv.DictReader(figure.to_csv().splitlines())}) == len(rows)


def test_files_have_every_point_and_the_page_shows_the_curve(load_rows: Any, synthetic: Any, tmp_path: Path) -> None:
    long = Curve(tuple(map(float, range(150))), tuple(1 / (1 + step) for step in range(150)), "nat", "outer step")
    suite = load_rows([synthetic.row("unrolled", seed, curves={"loss": long}) for seed in (0, 1)])
    build_figures(tmp_path / "results.parquet", tmp_path / "figures")
    name = "curve-loss-label_noise-fashion_mnist_10k"
    records = list(csv.DictReader((tmp_path / "figures" / f"{name}.csv").open()))
    assert [(float(record["x"]), float(record["y"])) for record in records] == list(
        zip(long.x, long.values, strict=True)
    )
    assert {(record["n"], record["label"], record["x_axis"], record["y_axis"]) for record in records} == {
        ("2", "unrolled", "outer step", "loss (nat)")
    }
    page = render_page(suite)
    assert f'id="figure-{name}"' in page and f'href="figures/{name}.pdf"' in page


def test_the_same_curves_give_the_same_bytes_and_a_short_drawing(suite: Suite) -> None:
    figure = _figures(suite)[0]
    assert draw_figure(figure, suite.styles) == draw_figure(figure, suite.styles)
    drawing = draw_svg(figure.panels[0], suite.styles, lambda label: "s0")
    assert not re.search(r'd="[^"]*\.\d{3}', drawing)


@pytest.mark.parametrize("values", [(1.0,), (0.0, 0.0, 0.0), (1e-9, -1e9, 3.0)])
def test_curves_of_one_point_of_zeros_and_of_any_range_can_be_drawn(figures_of: Any, values: Any, suite: Suite) -> None:
    (figure,) = figures_of(("unrolled", 0, {"loss": curve(*values, log_y=True)}))
    pdf, png = draw_figure(figure, suite.styles)
    assert pdf.startswith(b"%PDF") and png.startswith(b"\x89PNG")


def test_rows_without_curves_have_no_figure_of_them(figures_of: Any, tmp_path: Path) -> None:
    assert figures_of(("unrolled", 0, None), ("mixflow", 0, {})) == []


def test_results_without_their_file_of_curves_have_a_report(load_rows: Any, synthetic: Any, tmp_path: Path) -> None:
    load_rows([synthetic.row("unrolled", 0)])
    (tmp_path / "curves.parquet").unlink()
    suite = load_suite(tmp_path / "results.parquet")
    assert _figures(suite) == []
    assert "figure-curve" not in render_page(suite)
