"""The memory study: ratios to plain unrolling, along sweeps, over all configurations, against floors, and when it is not worth it."""

from __future__ import annotations

import csv
import importlib.util
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.report import build
from metabench.report.build import build_figures, build_tables
from metabench.report.figure import Figure
from metabench.report.page.page import render_page
from metabench.report.palette import marker_outline
from metabench.report.results.entries import Suite
from metabench.report.results.load import load_suite
from metabench.report.section import headline
from metabench.report.sections.memory_study import figures, sentences, table
from metabench.report.sections.memory_study.figures import FLOOR, device_memory
from metabench.report.sections.memory_study.study import Configuration, Study, memory_study
from metabench.report.sections.memory_study.sweeps import ablations, growths, sweeps
from metabench.report.tables.table import Table
from metabench.suite.plan.plan import load_suite as load_config
from metabench.suite.plan.plan import plan

SMALL = "label_noise"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The generator of a study's rows."""
    spec = importlib.util.spec_from_file_location("study_rows", Path(__file__).with_name("study_rows.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def load(load_rows: Any, made: ModuleType) -> Any:
    """A function from rows to the suite that they make, with the metadata of a study."""
    return lambda rows, **metadata: load_rows(rows, **{**made.metadata(), **metadata})


@pytest.fixture(scope="module")
def suite(
    save: Callable[..., Path], synthetic: ModuleType, made: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Suite:
    """A whole study. Not to be changed."""
    metadata = {**synthetic.metadata(), **made.metadata()}
    return load_suite(save(tmp_path_factory.mktemp("study"), made.study_rows(), metadata))


def _study(suite: Suite) -> Study:
    found = memory_study(suite)
    assert found is not None
    return found


def study_figures(suite: Suite) -> list[Figure]:
    return figures.study_figures(suite, _study(suite))


def study_tables(suite: Suite) -> list[Table]:
    return table.study_tables(suite, _study(suite))


def _figure(suite: Suite, kind: str) -> Figure:
    return next(figure.whole for figure in study_figures(suite) if figure.kind == kind)


def _said(suite: Suite) -> list[tuple[str, str]]:
    return sentences.study_sentences(_study(suite))


def _with(study: Study, **values: str) -> Configuration:
    """Return the one configuration of the language model that has these values and otherwise the centre's."""
    centre = {"inner_steps": "8", "size": "100k", "batch": "4", "blocks": "4", "optimiser": "sgd", "sequence": "64"}
    wanted = {**centre, **values}
    (found,) = (
        one for one in study.runs if one.task.problem != SMALL and {name: one.values[name] for name in wanted} == wanted
    )
    return found


def test_a_suite_that_measured_nothing_beside_plain_unrolling_makes_no_study(load: Any, made: Any) -> None:
    trained = [{**made.row(method), "kind": "quality", "outer_steps": 10} for method in ("unrolled", "mixflow")]
    alone = [made.row("unrolled"), made.row("unrolled", 4)]
    without = [made.row("mixflow"), made.row("unrolled_remat")]
    elsewhere = [made.row("unrolled", 2), made.row("mixflow", 4)]
    for rows in (trained, alone, without, elsewhere, []):
        suite = load(rows)
        assert memory_study(suite) is None
        assert not any(figure.name.startswith("study") for figure in build.blocks(suite, Figure))


def test_a_suite_that_declares_no_study_makes_none(load: Any, made: Any) -> None:
    rows = [made.row(method, steps) for method in ("unrolled", "mixflow") for steps in (2, 4, 8)]
    for declared in (
        "{}",
        "studies: {}",
        "studies: {memory: {subject: ''}}",
        "studies: {memory: {subject: unrolled_remat}}",
    ):
        assert memory_study(load(rows, suite=declared)) is None


def test_a_baseline_that_is_not_the_exact_unrolled_hypergradient_makes_no_study(load: Any, made: Any) -> None:
    rows = [made.row("unrolled", target="one_step"), made.row("mixflow")]
    assert memory_study(load(rows)) is None


def test_gains_are_the_references_bytes_over_the_methods(suite: Suite) -> None:
    study = _study(suite)
    assert (study.reference, study.subject) == ("unrolled", "mixflow")
    runs = study.runs[_with(study, sequence="256")]
    one = next(one for one in study.of("mixflow") if one.configuration == _with(study, sequence="256"))
    ours, theirs, other = (runs[label] for label in ("mixflow", "unrolled", "unrolled_remat"))
    assert one.dynamic_gain == theirs.dynamic_bytes / ours.dynamic_bytes
    assert one.total_gain == theirs.peak_bytes / ours.peak_bytes
    assert one.slowdown == pytest.approx(1.55)
    assert one.arithmetic == pytest.approx(14.6 / 9, rel=1e-4)
    assert one.against_recomputation == other.dynamic_bytes / ours.dynamic_bytes
    assert one.over_floor == ours.dynamic_bytes / runs["mixflow"].floor_bytes == pytest.approx(1.1, abs=1e-4)


def test_sweeps_share_their_centre_and_vary_one_thing(suite: Suite) -> None:
    study = _study(suite)
    found = sweeps(suite, study)
    places = {
        sweep.swept: [value for value, _ in sweep.places]
        for sweep in found
        if "adam" not in sweep.title and "2048" not in sweep.title
    }
    assert places["inner_steps"] == [2, 4, 8, 16]
    assert places["blocks"] == [2, 4, 8, 16]
    assert places["sequence"] == [64, 128, 256, 512]
    assert places["batch"] == [1, 4, 16]
    assert len(places["size"]) == 4
    for sweep in found:
        fixed = [{name: value for name, value in one.values.items() if name != sweep.swept} for _, one in sweep.places]
        assert all(one == fixed[0] for one in fixed)
    assert [sweep.title for sweep in found if "adam" in sweep.title] == [
        "inner steps K · lm_learning_rates · optimiser adam"
    ]


def test_an_option_at_its_default_is_part_of_a_configuration(load: Any, made: Any) -> None:
    rows = [made.row(method, options={"blocks": 4}) for method in ("unrolled", "mixflow")]
    assert rows[0]["problem_variant"] == ""
    (configuration,) = _study(load(rows)).runs
    assert configuration.values["blocks"] == "4"


def test_the_figure_of_gains_holds_every_method_the_floor_and_the_rows_numbers(suite: Suite) -> None:
    study = _study(suite)
    panel = next(panel for panel in _figure(suite, "study_gain").panels if panel.x.name == "sequence length")
    assert set(panel.labels) == {"unrolled_remat", "mixflow", FLOOR}
    for point in panel.points:
        runs = study.runs[_with(study, sequence=str(int(point.x)))]
        below = (
            study.floor(_with(study, sequence=str(int(point.x))))
            if point.label == FLOOR
            else runs[point.label].dynamic_bytes
        )
        assert point.y == runs["unrolled"].dynamic_bytes / below
    assert {rule.value for rule in panel.rules} == {4.0, 1.0}
    assert "1.10× the floor" in next(point.note for point in panel.points if point.label == "mixflow")


def test_options_of_the_trajectory_are_shown_where_they_were_swept_only(suite: Suite) -> None:
    recomputed = "mixflow (trajectory=recompute)"
    panels = {panel.title: panel for panel in _figure(suite, "study_gain").panels}
    assert [title for title, panel in panels.items() if recomputed in panel.labels] == [
        "inner steps K · lm_learning_rates"
    ]


def test_bars_are_static_and_dynamic_memory_apart(suite: Suite) -> None:
    study = _study(suite)
    panel = next(panel for panel in _figure(suite, "study_parts").panels if panel.x.name == "blocks (depth)")
    for blocks in (2, 4, 8, 16):
        runs = study.runs[_with(study, blocks=str(blocks))]
        for label in ("unrolled", "unrolled_remat", "mixflow"):
            bars = {bar.part: bar.value for bar in panel.bars if (bar.label, bar.group) == (label, str(blocks))}
            assert bars == {"dynamic": runs[label].dynamic_bytes, "static": runs[label].static_bytes}


def test_every_configuration_is_a_point_by_its_gain_and_its_cost_with_the_share_of_fourfold_gains(suite: Suite) -> None:
    study = _study(suite)
    *gained, computed = _figure(suite, "study_trade").panels
    own = study.of("mixflow")
    for panel, word in zip(gained, ("dynamic_gain", "total_gain"), strict=True):
        found = [(one.slowdown, value) for one in own if (value := getattr(one, word)) is not None]
        assert [(point.x, point.y) for point in panel.points if point.label == "mixflow"] == found
        assert panel.notes["mixflow"] == f"≥ 4×: {sum(gain >= 4 for _, gain in found)} of {len(found)}"
    times = [(one.arithmetic, one.slowdown) for one in own if one.slowdown]
    assert [(point.x, point.y) for point in computed.points if point.label == "mixflow"] == times


def test_the_ablation_has_all_combinations_relative_to_all_switches_off(suite: Suite) -> None:
    (ablation,) = ablations(_study(suite))
    assert ablation.switches == ("mixed_mode", "block_remat", "save_inner_grads")
    assert len(ablation.runs) == 8
    assert ablation.runs[frozenset(ablation.switches)].label == "mixflow"
    assert ablation.runs[frozenset()].label.count("False") == 3
    memory, time, operations = _figure(suite, "study_ablation").panels
    assert [bar.group for bar in memory.bars] == ["none", "M", "B", "S", "M+B", "M+S", "B+S", "M+B+S"]
    for panel in (memory, time, operations):
        assert panel.bars[0].value == 1.0
    off, on = ablation.runs[frozenset()], ablation.runs[frozenset(ablation.switches)]
    assert memory.bars[-1].value == on.dynamic_bytes / off.dynamic_bytes
    assert time.bars[-1].value == on.time_median / off.time_median


def test_a_combination_that_was_not_asked_for_makes_no_ablation(load: Any, made: Any) -> None:
    rows = [row for row in made.study_rows() if row["label"].count("False") != 3]
    assert ablations(_study(load(rows))) == []


def test_a_combination_that_failed_stands_in_the_ablation_by_its_status(load: Any, made: Any) -> None:
    rows = [row for row in made.study_rows() if row["label"].count("False") != 3]
    options = dict.fromkeys(made.SWITCHES, False)
    rows.append(made.row("mixflow", method_options=options, status="oom", message="limit"))
    memory = _figure(load(rows), "study_ablation").panels[0]
    assert (memory.bars[0].group, memory.bars[0].status, memory.bars[0].value) == ("none", "oom", 0.0)
    assert memory.y.name == "dynamic memory over that of unrolled"


def test_switches_are_told_from_other_options_of_the_method(load: Any, made: Any) -> None:
    rows = [*made.study_rows(), made.row("mixflow", method_options={"compile": True})]
    (ablation,) = ablations(_study(load(rows)))
    assert len(ablation.runs) == 8


def test_growth_per_step_is_in_bytes_of_the_parameters(load: Any, made: Any) -> None:
    rows = [made.row("unrolled", steps) for steps in (2, 4, 8, 16)]
    parameters = rows[0]["n_params"]
    rows += [made.row("mixflow", steps, dynamic_bytes=1000 + 2 * 4 * parameters * steps) for steps in (2, 4, 8, 16)]
    suite = load(rows)
    study = _study(suite)
    (sweep,) = sweeps(suite, study)
    growth = next(growth for growth in growths(study, sweep) if growth.label == "mixflow")
    assert growth.fit.slope == pytest.approx(8 * parameters)
    assert growth.over_parameters == pytest.approx(2.0)


def test_growth_per_block_is_over_the_parameters_that_a_block_adds(suite: Suite) -> None:
    study = _study(suite)
    sweep = next(sweep for sweep in sweeps(suite, study) if sweep.swept == "blocks")
    growth = next(growth for growth in growths(study, sweep) if growth.label == "mixflow")
    counts = [study.runs[one]["mixflow"].n_params for _, one in sweep.places]
    assert growth.parameters == pytest.approx(4 * (counts[1] - counts[0]) / 2)
    record = next(table for table in study_tables(suite) if table.name == "memory-growth").records
    assert {row["label"] for row in record if row["unit"] == "blocks (depth)"} == {
        "unrolled",
        "unrolled_remat",
        "mixflow",
    }


def test_the_first_lines_say_how_much_memory_at_what_time_and_when_not(suite: Suite) -> None:
    study, said = _study(suite), _said(suite)
    assert [about for about, _ in said[:5]] == [
        "How much memory",
        "At what time",
        "At least four times",
        "Not worth it",
        "Too large here",
    ]
    text = dict(said)
    gains = [value for one in study.of("mixflow") if (value := one.dynamic_gain) is not None]
    assert f"Over {len(gains)} configurations" in text["How much memory"]
    assert (
        f"takes {statistics.median(gains):.2f}× ({min(gains):.3f}× to {max(gains):.1f}×) the dynamic memory of `mixflow`"
        in text["How much memory"].replace("†", "")
    )
    assert "`mixflow` takes 1.55× the time of `unrolled`, at 1.62×" in text["At what time"].replace("†", "")
    fourfold = sum(gain >= 4 for gain in gains)
    assert (
        f"in {fourfold} of {len(gains)} configurations ({100 * fourfold / len(gains):.0f} %)"
        in text["At least four times"]
    )


def test_it_is_not_worth_it_for_small_mlps(suite: Suite) -> None:
    study, text = _study(suite), dict(_said(suite))["Not worth it"]
    lost = [one for one in study.of("mixflow") if one.why_not_worth_it]
    assert {one.configuration.task.problem for one in lost} == {SMALL}
    assert len(lost) == 4 and text.startswith("In 4 of 22 configurations")
    assert "These are all of label_noise and none of lm_learning_rates." in text
    reasons = Counter(one.why_not_worth_it for one in lost)
    assert reasons["more memory"] and f"In {reasons['more memory']} it takes at least as much memory as" in text


@pytest.mark.parametrize(
    ("peak", "seconds", "remat", "why"),
    [
        (1000, 1.0, (900, 2.0), "more memory"),
        (800, 1.5, (900, 2.0), "less gain than cost"),
        (400, 1.5, (300, 1.2), "recomputation does as well"),
        (400, 1.5, (300, 1.6), ""),
        (400, 1.5, (500, 1.2), ""),
    ],
)
def test_what_makes_it_not_worth_it(
    load: Any, made: Any, peak: int, seconds: float, remat: tuple[int, float], why: str
) -> None:
    rows = [
        made.row("unrolled", peak_bytes=1000, time_median_s=1.0),
        made.row("mixflow", peak_bytes=peak, time_median_s=seconds),
        made.row("unrolled_remat", peak_bytes=remat[0], time_median_s=remat[1]),
    ]
    (one,) = _study(load(rows)).of("mixflow")
    assert one.why_not_worth_it == why


def test_the_study_comes_first_only_where_most_rows_are_of_it(load: Any, made: Any) -> None:
    rows = [made.row("unrolled"), made.row("mixflow")]
    other = [
        {**made.row("unrolled", seed=seed), "kind": "quality", "outer_steps": 10, "cell": f"{seed:08d}"}
        for seed in range(6)
    ]
    assert "the memory of `mixflow`" in headline(load(rows))
    suite = load([*rows, *other])
    assert "the memory of" not in headline(suite) and memory_study(suite) is not None


def test_what_does_not_fit_is_in_the_table_with_its_predicted_bytes(suite: Suite) -> None:
    table = next(table for table in study_tables(suite) if table.name == "memory-study")
    large = [
        (row, record)
        for row, record in zip(table.rows, table.records, strict=True)
        if record["status"] == "unsupported"
    ]
    assert len(large) == 9
    for row, record in large:
        assert row["status"].text == "predicted not to fit: needs a GPU"
        assert record["predicted_bytes"] > 24 * 2**30 and row["predicted_bytes"].text.endswith(("GiB", "TiB"))
    gains = {record["label"]: record["predicted_gain"] for _, record in large}
    assert gains["mixflow"] == pytest.approx(400 / 30)
    figure = _figure(suite, "study_predicted")
    assert {point.x for point in figure.panels[0].points} == {44e6, 140e6, 489e6}
    assert figure.panels[0].rules[0].value == device_memory(suite) == 24 * 2**30


def test_every_run_of_the_study_is_a_row_of_its_table(suite: Suite) -> None:
    table = next(table for table in study_tables(suite) if table.name == "memory-study")
    assert len(table.rows) == sum(map(len, _study(suite).runs.values())) == len(suite.rows)


def test_a_reference_that_ran_out_of_memory_is_a_failure_in_its_place_and_a_sentence(load: Any, made: Any) -> None:
    rows = [made.row(method, steps) for method in ("unrolled_remat", "mixflow") for steps in (2, 4, 8, 16)]
    rows += [made.row("unrolled", steps) for steps in (2, 4, 8)]
    rows.append(made.row("unrolled", 16, status="oom", message="limit of 1 GiB"))
    suite = load(rows)
    (panel,) = _figure(suite, "study_gain").panels
    assert [(failure.label, failure.status, failure.x) for failure in panel.failures] == [("unrolled", "oom", 16)]
    (bars,) = _figure(suite, "study_parts").panels
    assert [(bar.label, bar.group) for bar in bars.bars if bar.status == "oom"] == [("unrolled", "16")]
    assert "In 1 configuration `unrolled` ran out of memory and `mixflow` did not." in dict(_said(suite))[
        "How much memory"
    ].replace("†", "")


def test_results_without_floors_operations_and_predictions_have_a_study_without_them(load: Any, made: Any) -> None:
    rows = [row for row in made.study_rows() if row["status"] == "ok"]
    suite = load([{**row, "floor_bytes": None, "flops": None, "predicted_bytes": None} for row in rows])
    assert {figure.kind for figure in study_figures(suite)} == {
        "study_gain",
        "study_parts",
        "study_trade",
        "study_ablation",
    }
    table = next(table for table in study_tables(suite) if table.name == "memory-study")
    assert not {"floor_bytes", "over_floor", "arithmetic", "predicted_bytes", "predicted_gain"} & {
        column.key for column in table.columns
    }
    text = " ".join(sentence for _, sentence in _said(suite))
    assert "floor" not in text and "operations" not in text and FLOOR not in _figure(suite, "study_gain").labels
    bare = [
        {name: value for name, value in row.items() if name not in ("floor_bytes", "flops", "predicted_bytes")}
        for row in suite.rows
    ]
    suite.rows[:] = bare
    assert _study(suite).floor(next(iter(_study(suite).runs))) is None


def test_files_hold_the_bars(load: Any, made: Any, tmp_path: Path) -> None:
    rows = [made.row(method, steps) for method in ("unrolled", "mixflow") for steps in (2, 4, 8, 16)]
    load(rows)
    results = tmp_path / "results.parquet"
    assert {"study_parts.pdf", "study_parts.png"} <= {path.name for path in build_figures(results, tmp_path)}
    records = list(csv.DictReader((tmp_path / "study_parts.csv").open()))
    found = {(record["label"], record["x"], record["note"]): float(record["y"]) for record in records}
    for row in rows:
        assert found[row["label"], str(row["inner_steps"]), "dynamic"] == row["dynamic_bytes"]
    names = {path.name for path in build_tables(results, tmp_path / "tables")}
    assert {"memory-study.csv", "memory-study.tex", "memory-growth.csv", "memory-growth.tex"} <= names


def test_the_page_has_a_section_for_it(suite: Suite) -> None:
    text = render_page(suite)
    assert text.index('id="memory-study"') < text.index('id="task-')
    assert '<a href="#memory-study">' in text


def test_captions_are_short_and_shapes_differ(suite: Suite) -> None:
    for figure in study_figures(suite):
        assert len(figure.full_caption.split()) <= 40
        assert ("n = 1 seed" in figure.caption) == (figure.kind != "study_predicted")
        assert len(figure.panels) <= 3
        styles = suite.all_styles | dict(figure.styles)
        assert len({marker_outline(styles[label].marker) for label in figure.labels}) == len(figure.labels)


def test_sizes_are_swept_within_one_family(load: Any, made: Any) -> None:
    rows = []
    for size, count in (("mlp64", 1), ("mlp128", 2), ("mlp256", 3), ("conv4", 4), ("conv8", 5)):
        rows += [
            {**made.row(method), "size": size, "n_params": 1000 * count, "cell": f"{method[:4]}{count:04d}"}
            for method in ("unrolled", "mixflow")
        ]
    suite = load(rows)
    (sweep,) = sweeps(suite, _study(suite))
    assert [configuration.size for _, configuration in sweep.places] == ["mlp64", "mlp128", "mlp256"]


@pytest.mark.parametrize(
    ("studies", "methods", "kind", "said"),
    [
        ({"memry": {"subject": "mixflow"}}, ["unrolled", "mixflow"], "cost", "did you mean 'memory'?"),
        ({"memory": {"subjects": "mixflow"}}, ["unrolled", "mixflow"], "cost", "did you mean 'subject'?"),
        ({"memory": {"subject": "mixflo"}}, ["unrolled", "mixflow"], "cost", "did you mean 'mixflow'?"),
        (
            {"memory": {"subject": "ift_cg"}},
            ["unrolled", "ift_cg"],
            "cost",
            "'ift_cg' is not exact for the unrolled window",
        ),
        (
            {"memory": {"subject": "mixflow"}},
            ["unrolled", "t1t2"],
            "cost",
            "no experiment of kind 'cost' measures 'mixflow'",
        ),
        (
            {"memory": {"subject": "mixflow"}},
            ["unrolled", "mixflow"],
            "quality",
            "no experiment of kind 'cost' measures 'mixflow'",
        ),
    ],
)
def test_a_study_that_cannot_be_made_is_refused(studies: Any, methods: list[str], kind: str, said: str) -> None:
    config = {
        "name": "x",
        "studies": studies,
        "experiments": {"a": {"problem": "toy_1d", "methods": methods, "kind": kind}},
    }
    with pytest.raises(MetabenchError, match=re.escape(said)):
        plan(load_config(config))


def test_the_suite_of_the_study_declares_it_and_the_default_one_does_not() -> None:
    root = Path(__file__).parents[2] / "config"
    assert plan(load_config(root / "suites/mixflow.yaml")).suite.studies.memory.subject == "mixflow"
    assert not load_config(root / "config.yaml").studies.memory.subject


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("1.5 GB", 1_500_000_000), ("", None), ("much", None)]
)
def test_the_devices_memory_is_read_from_the_configuration(load: Any, made: Any, text: str, size: int | None) -> None:
    assert device_memory(load([made.row("unrolled")], suite=f"device_memory: '{text}'")) == size
