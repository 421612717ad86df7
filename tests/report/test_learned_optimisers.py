"""The section of learned optimisers: who is compared, in what unit, and what is said where little is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from metabench.core.curves import Curve
from metabench.learned.names import AREA, DIVERGED, FINAL, LOSS, MEDIAN, on_trial
from metabench.report.blocks import Sentence
from metabench.report.figure import Figure
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task
from metabench.report.section import headline
from metabench.report.sections.learned_optimisers import LEARNED
from metabench.report.sections.learned_optimisers.entrants import benches
from metabench.report.sections.learned_optimisers.figures import cutting_figure
from metabench.report.sections.learned_optimisers.tables import TUNED_FOR, ahead, transfer_table
from metabench.report.tables.table import Table

SEEDS = (0, 1, 2)


@pytest.fixture
def rows(synthetic: Any) -> Any:
    """A function from an optimiser to its rows: areas by seed, and changes."""

    def make(
        optimiser: str, areas: Iterable[float], method: str = "unrolled", chosen: float | None = None, **changes: Any
    ) -> list[dict[str, Any]]:
        tuned = chosen is not None
        found = []
        for seed, area in zip(SEEDS, areas, strict=False):
            metrics = {AREA: area, FINAL: -0.5, MEDIAN: -0.6, DIVERGED: 0.0}
            metrics |= {on_trial("200 steps", name): 2 * value for name, value in metrics.items()}
            if tuned:
                metrics |= {on_trial("200 steps", AREA) + TUNED_FOR: area}
            found.append(
                synthetic.row(
                    "none" if tuned else method,
                    seed,
                    problem="regularisation",
                    size="digits64",
                    experiment=f"of {optimiser}",
                    problem_variant=f"optimiser={optimiser}",
                    kind="tuned" if tuned else "quality",
                    kind_options={"over": "optimiser = *, rate {0.01 to 3 in 5}"} if tuned else {},
                    problem_options={"optimiser": optimiser, "horizon": 2, "clip": 0.1},
                    outer_steps=0 if tuned else 10,
                    metric=AREA,
                    direction="min",
                    quality=area,
                    metrics=metrics,
                    meta_summary={"chosen rate": chosen, "rate at the edge": float(chosen > 1)} if tuned else {},
                    curves={
                        LOSS: Curve([0, 1, 2], [1.0, area, area / 2], "nat"),
                        on_trial("200 steps", LOSS): Curve([0, 1, 2], [1.0, area, area / 2], "nat"),
                    },
                )
                | {"cell": f"{abs(hash((optimiser, method))) % 16**8:08x}"}
                | changes
            )
        return found

    return make


@pytest.fixture
def suite(rows: Any, load_rows: Any) -> Suite:
    """A learned optimiser ahead of two tuned ones."""
    return load_rows(
        [
            *rows("lstm", (0.5, 0.51, 0.49)),
            *rows("lstm", (0.7, 0.72, 0.69), method="t1t2"),
            *rows("adam", (1.0, 1.01, 1.02), chosen=0.1),
            *rows("sgd", (2.0, 2.1, 2.2), chosen=3.0),
        ]
    )


def blocks(suite: Suite, kind: type) -> list[Any]:
    return [block for part in LEARNED.parts(suite) for block in part.blocks if isinstance(block, kind)]


def test_entrants_are_named_after_what_is_learned_and_by_which_method(suite: Suite) -> None:
    (bench,) = benches(suite)
    assert [one.name for one in bench.learned] == ["lstm by unrolled", "lstm by t1t2"]
    assert [one.name for one in bench.tuned] == ["adam, tuned", "sgd, tuned"]
    assert bench.trials == ["", "200 steps"]


def test_the_best_learned_is_compared_with_the_best_tuned_in_pairs(suite: Suite) -> None:
    (bench,) = benches(suite)
    assert ahead(bench) == "`lstm by unrolled` is ahead of `adam, tuned`: 50 % less area under the loss curve"
    assert [block.text for block in blocks(suite, Sentence)] == [f"{ahead(bench)}."]
    assert headline(suite) == "A learned optimiser is ahead of the best tuned baseline on 1 of 1 set of tasks."


def test_transfers_are_in_units_of_the_baseline_tuned_for_the_same_tasks(suite: Suite) -> None:
    (bench,) = benches(suite)
    table = transfer_table(bench)
    assert table is not None
    cells = {row["name"].text: [row[column.key].text for column in table.columns[1:]] for row in table.rows}
    # Adam's area there is twice that of the values tuned for it.
    assert cells["adam, tuned"] == ["1.00", "2.00"]
    assert cells["lstm by unrolled"] == ["0.495", "0.990"]


def test_the_table_says_what_was_chosen_and_where_the_grid_ended(suite: Suite) -> None:
    table = next(one for one in blocks(suite, Table) if one.name.startswith("optimisers"))
    chosen = {row["name"].text: row["chosen"].text for row in table.rows}
    assert chosen == {
        "lstm by unrolled": "–",
        "lstm by t1t2": "–",
        "adam, tuned": "rate 0.1",
        "sgd, tuned": "rate 3 (edge of the grid)",
    }
    assert [row["verdict"].text for row in table.rows] == ["the least", "worse", "worse", "worse"]


def test_learning_curves_are_drawn_here_and_not_among_those_of_the_problem(suite: Suite) -> None:
    (figure,) = blocks(suite, Figure)
    assert [panel.title for panel in figure.panels + figure.omitted] == ["Tasks trained on · digits64", "200 steps"]
    assert all(len(panel.traces) == 4 for panel in figure.panels)
    (task,) = suite.tasks
    drawn = {name: LEARNED.draws(suite, task, name) for name in (LOSS, f"200 steps: {LOSS}{TUNED_FOR}", "outer loss")}
    assert list(drawn.values()) == [True, True, False]
    assert not any(LEARNED.draws(suite, Task("another", "set"), name) for name in drawn)


def test_the_best_of_many_is_not_ahead_by_what_one_alone_would_be(rows: Any, load_rows: Any) -> None:
    baseline, best = rows("adam", (2.0, 2.0, 2.0), chosen=0.1), rows("lstm", (1.0, 0.8, 1.3))
    (alone,) = benches(load_rows([*best, *baseline]))
    assert "is ahead of" in ahead(alone)
    worse = [row for name in ("mlp", "rnnprop", "small_mlp") for row in rows(name, (1.9, 2.2, 1.8))]
    (many,) = benches(load_rows([*best, *worse, *baseline]))
    assert ahead(many).endswith("48 % less area under the loss curve, not told apart by 3 seeds")


def test_one_seed_decides_nothing(rows: Any, load_rows: Any) -> None:
    suite = load_rows([*rows("lstm", (0.5,)), *rows("adam", (1.0,), chosen=0.1)])
    (bench,) = benches(suite)
    assert ahead(bench).endswith("50 % less area under the loss curve, no verdict: 1 seed shared")


def test_a_failed_cell_is_a_row_with_its_status(rows: Any, load_rows: Any) -> None:
    failed = [row | {"status": "diverged", "metrics": None} for row in rows("mlp", (1.0, 1.0, 1.0))]
    suite = load_rows([*rows("lstm", (0.5, 0.5, 0.6)), *rows("adam", (1.0, 1.1, 1.0), chosen=0.1), *failed])
    table = next(one for one in blocks(suite, Table) if one.name.startswith("optimisers"))
    assert ("mlp by unrolled", (("diverged", 3),)) in [(row["name"].text, row["chosen"].badges) for row in table.rows]


def test_a_suite_without_optimisers_has_no_such_section(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([synthetic.row("unrolled", seed) for seed in SEEDS])
    assert LEARNED.parts(suite) == [] and LEARNED.headline(suite) == ""


def test_the_cost_of_cutting_is_drawn_over_window_lengths(suite: Suite, rows: Any, load_rows: Any, synthetic: Any) -> None:
    cuts = [
        synthetic.row(
            method, seed, problem="regularisation", size="digits64", experiment="cuts", kind="cost", inner_steps=steps,
            problem_variant=f"start={start}", problem_options={"optimiser": "lstm", "start": start, "horizon": 2},
            episode_cosine=cosine + 0.01 * seed,
        )
        for start, cosine in (("", 0.9), ("mine.pt", 0.2))
        for method in ("unrolled", "truncated")
        for steps in (1, 5, 20)
        for seed in SEEDS
    ]  # fmt: skip
    judged = [*rows("lstm", (0.5, 0.51, 0.49)), *rows("adam", (1.0, 1.01, 1.02), chosen=0.1)]
    (bench,) = benches(load_rows([*judged, *cuts]))
    figure = cutting_figure(load_rows([*judged, *cuts]), bench)
    assert figure is not None
    assert [panel.title for panel in figure.panels] == ["lstm, as drawn", "lstm, trained (mine.pt)"]
    drawn = figure.panels[0]
    assert {(point.label, point.x) for point in drawn.points} == {(m, k) for m in ("unrolled", "truncated") for k in (1, 5, 20)}
    assert drawn.points[0].y == pytest.approx(0.91) and drawn.points[0].y_high == pytest.approx(0.92)
    assert figure.panels[1].points[0].y == pytest.approx(0.21)
    other = [row | {"problem_options": row["problem_options"] | {"horizon": 3}} for row in cuts]
    assert cutting_figure(load_rows([*judged, *other]), bench) is None
    two = [row for row in cuts if row["inner_steps"] != 5]
    assert cutting_figure(load_rows([*judged, *two]), bench) is None
