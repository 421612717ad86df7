"""The figures: which there are, what they hold, and the rules that all of them keep, on suites of every shape."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metabench.report.build import blocks, build_figures
from metabench.report.drawing.drawing import draw_svg
from metabench.report.figure import PANELS_OF_A_FILE, Axis, Figure, Panel, Point
from metabench.report.figures.parts import FIT_AT_LEAST, family
from metabench.report.palette import MARKERS, PALETTE, SHAPES, LabelStyle, assign_styles, marker_outline, natural_key
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite
from metabench.report.section import contents
from metabench.report.sections.problems import PANELS_OF_A_PROBLEM, problem_figures
from metabench.results.store import collect, write_rows

PUBLISHED = Path(__file__).parents[2] / "results/reference/results.parquet"


def grid(synthetic: Any, problems: int, methods: int, seeds: int, sizes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return rows of a full grid, every method and problem with a name of its own."""
    rows = []
    for problem in range(problems):
        for method in range(methods):
            name = f"method{method}"
            for size in sizes:
                cell = hashlib.sha256(f"{problem} {method} {size}".encode()).hexdigest()[:8]
                names = {"problem": f"problem{problem}", "method": name, "label": name, "cell": cell}
                for seed in range(seeds):
                    row = synthetic.row("truncated", seed, size=size)
                    rows.append(row | names | {"peak_bytes": int((1 + 0.01 * method) * row["peak_bytes"])})
    return rows


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory, synthetic: Any) -> Callable[..., Suite]:
    """A function from rows to the suite that they make."""

    def made(rows: list[dict[str, Any]]) -> Suite:
        folder = tmp_path_factory.mktemp("rows")
        write_rows(folder / "rows.parquet", rows)
        metadata = {**synthetic.metadata(), "methods": "{}"}
        return load_suite(collect([folder / "rows.parquet"], folder / "results.parquet", metadata).parquet)

    return made


@pytest.fixture(scope="module")
def suites(load: Callable[..., Suite], suite: Suite, synthetic: Any) -> Callable[[str], Suite]:
    """Suites of every shape by name."""
    one = synthetic.row("unrolled", 0)
    equal = [one | {"method": name, "label": name, "cell": f"{index:08d}"} for index, name in enumerate("abc")]
    makers: dict[str, Callable[[], Suite]] = {
        "published": lambda: load_suite(PUBLISHED),
        "synthetic": lambda: suite,
        "20 x 20": lambda: load(grid(synthetic, 20, 20, 5, ("mlp256",))),
        "50 methods": lambda: load(grid(synthetic, 1, 50, 2, ("mlp64", "mlp256", "mlp1024", "mlp4096", "conv8"))),
        "one row": lambda: load([one]),
        "all failed": lambda: load([synthetic.failed_row("unrolled", 0, "oom", "limit")]),
        "equal": lambda: load(equal),
    }
    return functools.cache(lambda name: makers[name]())


@pytest.fixture(params=["published", "synthetic", "20 x 20", "50 methods", "one row", "all failed", "equal"])
def any_suite(request: pytest.FixtureRequest, suites: Callable[[str], Suite]) -> Suite:
    """Each of the suites."""
    return suites(request.param)


@pytest.fixture
def figures(any_suite: Suite) -> list[Figure]:
    """All figures of one of the suites."""
    return blocks(any_suite, Figure)


def _figure(suite: Suite, kind: str, problem: str = "label_noise") -> Figure:
    found = (block for part in contents(suite) if part.title == problem for block in part.blocks)
    return next(block for block in found if isinstance(block, Figure) and block.kind == kind)


def test_a_caption_has_at_most_forty_words(figures: list[Figure]) -> None:
    for figure in figures:
        for shown in (figure, figure.whole):
            assert len(shown.full_caption.split()) <= 40, shown.full_caption


def test_no_panel_is_empty(figures: list[Figure]) -> None:
    for figure in figures:
        assert figure.whole.panels
        for panel in figure.panels + figure.omitted:
            assert panel.points or panel.traces or any(bar.value for bar in panel.bars), panel.title


def test_no_figure_has_a_shape_twice(any_suite: Suite, figures: list[Figure]) -> None:
    for figure in figures:
        styles = any_suite.all_styles | dict(figure.styles)
        shapes = [marker_outline(styles[label].marker) for label in figure.whole.labels]
        assert len(set(shapes)) == len(shapes)
        assert set(figure.left_out).isdisjoint(figure.whole.labels)


def test_a_line_joins_sizes_of_one_family_and_is_fitted_to_four_places_or_more(
    any_suite: Suite, figures: list[Figure]
) -> None:
    for figure in figures:
        for panel in figure.panels + figure.omitted if figure.kind.startswith("scaling") else []:
            for line in panel.lines:
                sizes = {part.partition(",")[0] for point in line for part in [point.note]}
                assert len({family(any_suite, "", size) for size in sizes}) == 1
                if len(line) < FIT_AT_LEAST:
                    note = panel.notes.get(line[0].label, panel.title)
                    assert "no fit: " in note and "±" not in note


def test_the_page_has_few_panels_and_files_have_all_that_can_be_read(any_suite: Suite) -> None:
    for part in contents(any_suite):
        drawn = [block for block in part.blocks if isinstance(block, Figure)]
        if part.name.startswith("task-"):
            assert sum(len(figure.panels) for figure in drawn) <= min(
                PANELS_OF_A_PROBLEM, max(1, 60 // len(any_suite.tasks))
            )
        for figure in drawn:
            every = len(figure.panels) + len(figure.omitted)
            assert len(figure.whole.panels) == min(every, PANELS_OF_A_FILE)
            if figure.panels and figure.omitted:
                assert f"{len(figure.panels)} of {every} panels" in figure.full_caption


def test_twenty_problems_show_three_panels_each(suites: Callable[[str], Suite]) -> None:
    suite = suites("20 x 20")
    for part in contents(suite):
        shown = [panel for block in part.blocks if isinstance(block, Figure) for panel in block.panels]
        if part.name.startswith("task-"):
            assert [panel.title.split(" · ")[0] for panel in shown] == ["Against memory", "Against time", "mlp256"]


def test_labels_beyond_the_shapes_are_in_the_csv_and_named(suites: Callable[[str], Suite]) -> None:
    suite = suites("50 methods")
    (task,) = suite.tasks
    found = problem_figures(suite, task, 12)
    note, figure = found[-1], found[0]
    assert isinstance(figure, Figure) and not isinstance(note, Figure)
    assert len(figure.labels) == len(SHAPES) and len(figure.left_out) == 50 - len(SHAPES)
    records = list(csv.DictReader(figure.to_csv().splitlines()))
    assert {record["label"] for record in records} == {f"method{index}" for index in range(50)}
    assert all(f"`{label}`" in note.text for label in figure.left_out)
    front = {point.label for panel in figure.panels + figure.unseen for point in panel.points if point.on_front}
    assert front.isdisjoint(figure.left_out)


def test_what_the_rows_do_not_warrant_is_said(suite: Suite) -> None:
    (note,) = [
        block
        for block in next(p for p in contents(suite) if p.title == "regularisation").blocks
        if type(block).__name__ == "Note"
    ]
    assert "no family of models was measured at 3 sizes" in note.text


def test_settings_in_which_every_run_failed_are_said_and_not_drawn(suites: Callable[[str], Suite]) -> None:
    suite = suites("all failed")
    (task,) = suite.tasks
    (note,) = problem_figures(suite, task, 12)
    assert not isinstance(note, Figure) and "no run finished (`unrolled` oom)" in note.text


def test_the_largest_model_comes_first(suite: Suite) -> None:
    figure = _figure(suite, "quality_cost")
    assert [panel.title.split(" · ")[1] for panel in figure.panels + figure.omitted] == [
        size for size in ("mlp1024", "mlp256", "mlp64") for _ in range(2)
    ]


def test_every_label_of_a_setting_is_in_its_panel_as_a_point_or_a_failure(suite: Suite) -> None:
    figure = _figure(suite, "quality_cost")
    settings = [one for one in suite.settings if one.task.problem == "label_noise" and one.kind == "quality"]
    panels = {panel.title: panel for panel in figure.panels + figure.omitted}
    for setting in settings:
        panel = panels[f"Against memory · {suite.titles[setting]}"]
        assert set(panel.labels) == {entry.label for entry in suite.settings[setting]}
    assert {(failure.label, failure.status) for failure in figure.panels[0].failures} == {
        ("unrolled", "oom"),
        ("ift_neumann", "diverged"),
        ("ift_cg", "timeout"),
    }


def test_failures_stand_at_their_place_where_the_axis_has_one(suite: Suite) -> None:
    memory = _figure(suite, "scaling_steps").panels[0]
    assert {(failure.label, failure.status, failure.x) for failure in memory.failures} == {
        ("unrolled", "oom", 64),
        ("unrolled", "oom", 128),
        ("ift_cg", "timeout", 128),
        ("evograd", "error", 2),
    }
    sizes = _figure(suite, "scaling_size")
    widest = [failure for panel in sizes.panels + sizes.omitted for failure in panel.failures if failure.x == 1_663_370]
    assert {failure.label for failure in widest} == {"unrolled", "unrolled_remat"}


def test_the_fitted_exponent_is_that_of_the_rows_of_its_family(load_rows: Any, synthetic: Any) -> None:
    sizes = [(f"mlp{4**power}", 10**power, 7 * 10**power) for power in range(3, 7)]
    sizes += [(f"conv{4**power}", 4**power, 8 * 2**power) for power in range(3, 7)]
    rows = [
        synthetic.row("unrolled", 0, size=size, kind="cost", parameters=parameters, peak_bytes=peak)
        for size, parameters, peak in [*sizes, ("resnet18", 5000, 7)]
    ]
    figure = _figure(load_rows(rows), "scaling_size")
    panels = [panel for panel in figure.panels + figure.omitted if panel.y.kind == "bytes"]
    assert {panel.title.split(" · ")[1]: panel.notes["unrolled"] for panel in panels} == {
        "mlp": "b = 1.000 ± 0.000 (4 sizes)",
        "conv": "b = 0.500 ± 0.000 (4 sizes)",
    }
    records = list(csv.DictReader(figure.to_csv().splitlines()))
    assert {record["fit"] for record in records if "Memory · conv" in record["panel"]} == {
        "b = 0.500 ± 0.000 (4 sizes)"
    }
    assert not any("resnet" in record["note"] for record in records)


def test_three_sizes_are_drawn_and_not_fitted(load_rows: Any, synthetic: Any) -> None:
    rows = [synthetic.row("unrolled", 0, size=size, kind="cost") for size in ("mlp64", "mlp256", "mlp1024")]
    figure = _figure(load_rows(rows), "scaling_size")
    assert [panel.title.split(" · ")[-1] for panel in figure.panels] == ["no fit: 3 sizes"] * 2
    assert [panel.notes for panel in figure.panels] == [{}, {}]
    assert "Nothing is fitted" in figure.caption


def test_the_card_of_a_problem_says_which_sizes_are_one_family(load_rows: Any, synthetic: Any) -> None:
    known = json.dumps(
        {"label_noise": {"title": "", "citation": "", "families": {"mlp64": "MLP", "own": "MLP", "conv8": "CNN"}}}
    )
    suite = load_rows([synthetic.row("unrolled", 0)], problems=known)
    sizes = ("mlp64", "own", "conv8", "conv16", "100k", "44M")
    assert [family(suite, "label_noise", size) for size in sizes] == ["MLP", "MLP", "CNN", "conv", "", ""]


def test_a_method_that_draws_is_shown_by_its_mean_draw(suite: Suite) -> None:
    figure = _figure(suite, "error_cost")
    every = figure.panels + figure.omitted
    cosines = [panel for panel in every if panel.title.startswith("1 − cosine")]
    errors = [panel for panel in every if panel.title.startswith("Error")]
    drawn = [point for panel in cosines for point in panel.points if point.label == "evograd"]
    assert drawn and all(point.y == pytest.approx(1 - 0.55) and "mean draw" in point.note for point in drawn)
    assert any("scale included" in point.note for panel in errors for point in panel.points if point.label == "evograd")


def test_one_minus_cosine_is_labelled_as_what_it_is(load_rows: Any, synthetic: Any) -> None:
    turned = [synthetic.row("t1t2", seed, hypergradient_cosine=(-0.1, 0.1, 0.0)[seed]) for seed in range(3)]
    rows = turned + [synthetic.row("unrolled", seed, hypergradient_cosine=1.0) for seed in range(3)]
    panel = next(one for one in _figure(load_rows(rows), "error_cost").panels if one.title.startswith("1 − cosine"))
    assert panel.y.name == "1 − cosine with exact hypergradient (0: same, 1: orthogonal, 2: opposite)"
    assert {(rule.value, rule.words) for rule in panel.rules} == {(1.0, "orthogonal"), (2.0, "opposite")}
    found = {point.label: (point.y, "not told apart from 0" in point.note) for point in panel.points}
    assert found["t1t2"] == (pytest.approx(1.0), True) and found["unrolled"] == (0.0, False)
    assert panel.floor is not None and found["unrolled"][0] < panel.floor


def test_options_of_one_method_are_joined_in_the_figure_of_errors(suite: Suite) -> None:
    panel = _figure(suite, "error_cost").panels[0]
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
    name = "quality_cost-label_noise-fashion_mnist_10k"
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
            place = entry.peak_bytes if record["panel"].startswith("Against memory") else entry.time_median
            assert float(record["y"]) == entry.quality.value and float(record["x"]) == place


def test_an_interval_leaves_the_hole_of_a_hollow_shape_open() -> None:
    axis = Axis("a", "plain", log=False)
    panel = Panel("a panel", axis, axis, [Point("m", 1.0, 2.0, 0.5, 1.5, 1.0, 3.0)])
    drawing = draw_svg(panel, {"m": LabelStyle("c0", PALETTE[0][0], SHAPES[-1])}, lambda label: "s0")
    (mark,) = re.findall(r'<path class="m s0" data-r="[^"]+" d="([^"]+)"', drawing)
    assert mark.count("M") == mark.count("z") == 2, "the shape and its hole alone"
    assert '<path class="l s0"' in drawing


def test_an_empty_suite_has_no_figures(empty_results: Path, tmp_path: Path) -> None:
    assert build_figures(empty_results, tmp_path) == []


def test_a_method_keeps_its_colour_whoever_else_is_there() -> None:
    methods = ["none", "unrolled", "mixflow", "evograd"]
    alone = assign_styles(methods, {"evograd": "evograd"})
    together = assign_styles(methods, {name: name for name in methods})
    assert alone["evograd"] == together["evograd"]


@pytest.mark.parametrize(("methods", "variants"), [(1, 36), (9, 4), (12, 3), (36, 1)])
def test_as_many_labels_as_there_are_shapes_have_shapes_of_their_own(methods: int, variants: int) -> None:
    names = [f"m{index}" for index in range(methods)]
    labels = {name if not variant else f"{name} (k={variant})": name for name in names for variant in range(variants)}
    styles = assign_styles(names, labels)
    assert len({marker_outline(style.marker) for style in styles.values()}) == len(labels) == len(SHAPES)
    assert len({styles[label].colour for label, owner in labels.items() if owner == "m0"}) == 1


def test_beyond_the_shapes_labels_differ_in_colour() -> None:
    methods = [f"m{index}" for index in range(len(PALETTE))]
    labels = {f"{method}(k={variant})": method for method in methods for variant in range(len(PALETTE))}
    styles = assign_styles(methods, labels)
    assert len({(style.colour, marker_outline(style.marker)) for style in styles.values()}) == len(labels)
    assert len({marker_outline(marker) for marker in MARKERS}) == len(SHAPES) + 1


@pytest.mark.parametrize(
    ("smaller", "larger"), [("k=2", "k=16"), ("lr=0.01", "lr=0.1"), ("lr=1e-3", "lr=0.5"), ("a", "b")]
)
def test_options_are_ordered_as_numbers(smaller: str, larger: str) -> None:
    assert natural_key(smaller) < natural_key(larger)
