"""The study of two methods: who is compared, between which references, and what one saves against the other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.report import numbers
from metabench.report.blocks import Note, Sentence
from metabench.report.figure import Figure
from metabench.report.results.entries import Suite
from metabench.report.sections.rivals import RIVALS
from metabench.report.sections.rivals.matches import matches
from metabench.report.sections.toy import TOY_SECTION
from metabench.report.tables.table import Table
from metabench.results.slices import CLOSED_FORM, DEVIATION, HYPERGRADIENT, MEAN
from metabench.suite.plan.plan import load_suite, plan

STUDY = "studies: {rival: {subject: evograd, rival: t1t2}}"
REFERENCES = {"baseline": {}, "oracle": {"rate": 0.0}}
QUALITY = {"none": 40.0, "t1t2": 70.0, "evograd": 60.0}
SPREAD = {"none": (-0.1, 0.0, 0.1), "t1t2": (0.2, -0.2, 0.0), "evograd": (0.0, 0.3, -0.3)}
BYTES = {"none": 900, "t1t2": 2000, "evograd": 1000}


@pytest.fixture
def load(load_rows: Any, synthetic: Any) -> Any:
    """A function from rows to a suite with the study, whose label noise has references."""

    def make(rows: list[dict[str, Any]], suite: str = STUDY, references: dict[str, Any] = REFERENCES) -> Suite:
        cards = json.loads(synthetic.metadata()["problems"])
        cards["label_noise"]["references"] = references
        return load_rows(rows, suite=suite, problems=json.dumps(cards))

    return make


@pytest.fixture
def rows(synthetic: Any) -> list[dict[str, Any]]:
    """Three methods at two sizes, of which one is twice as large, and the oracle."""
    found = []
    for size, parameters in (("mlp64", 10_000), ("mlp256", 100_000)):
        for seed in range(3):
            for method, quality in QUALITY.items():
                found.append(
                    synthetic.row(
                        method, seed, size=size, quality=quality + SPREAD[method][seed], peak_bytes=BYTES[method] * parameters,
                        time_median_s=BYTES[method] / 1e6, n_params=parameters,
                    )
                )  # fmt: skip
            oracle = {"problem_variant": "noise=flip, rate=0.0", "experiment": "oracle"}
            found.append(
                synthetic.row("none", seed, size=size, quality=80.0, n_params=parameters, **oracle)
            )
    return found


def parts(suite: Suite) -> dict[type, list[Any]]:
    (part,) = RIVALS.parts(suite)
    return {
        kind: [block for block in part.blocks if isinstance(block, kind)] for kind in (Sentence, Table, Figure, Note)
    }


def test_a_method_stands_between_baseline_and_oracle(load: Any, rows: list[dict[str, Any]]) -> None:
    suite = load(rows)
    found = matches(suite)
    assert [match.setting.size for match in found] == ["mlp64", "mlp256"]
    assert {name: one.quality.value for name, one in found[0].references.items()} == pytest.approx(
        {"baseline": 40.0, "oracle": 80.0}
    )
    shares = {label: found[0].closed(entry) for label, entry in found[0].entries.items()}
    assert shares == pytest.approx({"none": 0.0, "t1t2": 0.75, "evograd": 0.5})
    blocks = parts(suite)
    (sentence,) = blocks[Sentence]
    assert "0.500× of the memory and 0.500× of the time of `t1t2`" in sentence.text
    assert "closes 50.0 % of the gap to the oracle or more" in sentence.text
    assert not blocks[Note]


def test_the_table_has_every_entry_and_the_references(load: Any, rows: list[dict[str, Any]]) -> None:
    (table,) = parts(load(rows))[Table]
    assert [(record["label"], record["reference"]) for record in table.records[:4]] == [
        ("none", "oracle"), ("none", "baseline"), ("t1t2", ""), ("evograd", "")
    ]  # fmt: skip
    by = {(record["label"], record["reference"]): record for record in table.records[:4]}
    assert by["evograd", ""]["verdict"] == "worse" and by["evograd", ""]["gap_closed"] == pytest.approx(0.5)
    assert by["evograd", ""]["peak_bytes_ratio"] == 0.5 and by["none", "oracle"]["verdict"] == numbers.ABSENT
    assert table.rows[0]["closed"].text == "100 %"


def test_ratios_are_drawn_over_sizes_with_what_the_paper_measured(load: Any, rows: list[dict[str, Any]]) -> None:
    (figure,) = parts(load(rows))[Figure]  # all have the same number of meta-parameters
    memory, time = figure.panels
    assert [(point.x, point.y) for point in memory.points] == [(10_000, 2.0), (100_000, 2.0)]
    assert len(memory.lines) == 1 and memory.y.name == "t1t2 over evograd"
    published = {rule.words: rule.value for rule in memory.rules if rule.words}
    assert published["label_noise, published"] == pytest.approx(0.9 / 0.4)
    assert {rule.words: rule.value for rule in time.rules}["label_noise, published"] == pytest.approx(144.9 / 98.7)


def test_without_an_oracle_no_gap_is_shown(load: Any, rows: list[dict[str, Any]]) -> None:
    blocks = parts(load([row for row in rows if row["experiment"] != "oracle"]))
    assert all(record["gap_closed"] is None for record in blocks[Table][0].records)
    assert "closed" not in [column.key for column in blocks[Table][0].columns]
    assert "did not run baseline and oracle" in blocks[Note][0].text


def test_an_oracle_of_another_length_is_none(load: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["experiment"] == "oracle":
            row["outer_steps"] = 800
    assert [list(match.references) for match in matches(load(rows))] == [["baseline"], ["baseline"]]


def test_an_oracle_that_is_no_better_closes_nothing(load: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["experiment"] == "oracle":
            row["quality"] = 30.0
    assert matches(load(rows))[0].closed(matches(load(rows))[0].entries["evograd"]) is None


def test_a_rival_that_failed_is_no_match(load: Any, synthetic: Any, rows: list[dict[str, Any]]) -> None:
    kept = [row for row in rows if not (row["method"] == "t1t2" and row["size"] == "mlp64")]
    failed = [synthetic.row("t1t2", seed, size="mlp64", status="oom") for seed in range(3)]
    assert [match.setting.size for match in matches(load(kept + failed))] == ["mlp256"]


def test_illustrations_take_no_part(load: Any, rows: list[dict[str, Any]], load_rows: Any, synthetic: Any) -> None:
    cards = json.loads(synthetic.metadata()["problems"])
    cards["toy_1d"]["illustration"] = True
    toys = [synthetic.row(method, problem="toy_1d", size="scalar") for method in ("evograd", "t1t2")]
    suite = load_rows(rows + toys, suite=STUDY, problems=json.dumps(cards))
    assert {match.setting.task.problem for match in matches(suite)} == {"label_noise"}


def test_a_suite_that_asks_for_no_study_has_none(load: Any, rows: list[dict[str, Any]]) -> None:
    assert not list(RIVALS.parts(load(rows, suite="studies: {}")))


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"subject": "evograd", "rival": "t1t1"}, "method of key 'studies.rival.rival'.*t1t2"),
        ({"subject": "evograd"}, "method of key 'studies.rival.rival'"),
        ({"subject": "evograd", "rival": "evograd"}, "no experiment runs 'evograd' beside 'evograd'"),
        (
            {"subject": "evograd", "rival": "darts"},
            "no experiment runs 'evograd' beside 'darts', two different methods",
        ),
    ],
)
def test_a_study_that_cannot_be_made_is_refused(study: dict[str, str], said: str) -> None:
    experiments = {
        "a": {"problem": "toy_1d", "methods": ["evograd", "t1t2"]},
        "b": {"problem": "toy_1d", "methods": ["darts"]},
    }
    with pytest.raises(MetabenchError, match=said):
        plan(load_suite({"name": "x", "studies": {"rival": study}, "experiments": experiments}))


def test_the_toy_is_drawn_with_its_closed_form_and_its_trajectories(load: Any, synthetic: Any) -> None:
    curves = {
        name: Curve([0.1, 2.0], values, along="l")
        for name, values in (
            (HYPERGRADIENT, [-0.2, 0.1]),
            (MEAN, [-0.3, 0.0]),
            (DEVIATION, [0.5, 0.25]),
            (CLOSED_FORM, [-0.7, 0.04]),
        )
    }
    toy = {"problem": "toy_1d", "size": "scalar"}
    sliced = synthetic.row("evograd", kind="slice", experiment="slice", **toy) | {"curves": curves}
    starts = [
        synthetic.row("t1t2", seed, experiment="starts", **toy)
        | {"curves": {"x": Curve([0, 1], [seed, 0.5]), "l": Curve([0, 1], [0.2, 1.0])}}
        for seed in range(5)
    ]
    suite = load([sliced, *starts])
    (part,) = TOY_SECTION.parts(suite)
    hypergradients, trajectories = part.blocks
    assert isinstance(hypergradients, Figure) and isinstance(trajectories, Figure)
    band, closed = hypergradients.panels[0].traces
    assert band.low == pytest.approx((-0.8, -0.25)) and band.high == pytest.approx((0.2, 0.25))
    assert closed.label == CLOSED_FORM and closed.y == (-0.7, 0.04)
    assert [trace.x for trace in trajectories.panels[0].traces] == [(float(seed), 0.5) for seed in range(5)]
    task = suite.tasks[0]
    assert TOY_SECTION.draws(suite, task, MEAN) and not TOY_SECTION.draws(suite, task, "outer loss")
    assert not list(TOY_SECTION.parts(load([synthetic.row("t1t2")])))
