"""Runs of several lengths: a cheaper method is compared at as many meta-updates and at about equal time."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.report.blocks import Sentence
from metabench.report.section import contents
from metabench.report.tables.table import Table


def rows(synthetic: Any, method: str, steps: int, seconds: float, quality: float) -> list[dict[str, Any]]:
    made = [
        synthetic.row(method, seed, problem="regularisation", parameters=100, dataset="digits") for seed in range(4)
    ]
    changed = {"outer_steps": steps, "train_s": seconds, "direction": "max", "cell": f"{method[:4]}{steps}"}
    options = {"learning_rate": 0.1, "outer_schedule": f"cosine {steps}"}
    return [row | changed | {"quality": quality + row["seed"] / 100, "problem_options": options} for row in made]


@pytest.fixture
def lengths(load_rows: Any, synthetic: Any) -> tuple[list[str], Table]:
    suite = load_rows(
        rows(synthetic, "unrolled", 150, 10.0, 70.0)
        + rows(synthetic, "t1t2", 150, 4.0, 65.0)
        + rows(synthetic, "t1t2", 375, 10.5, 70.0)
        + rows(synthetic, "mixflow", 150, 30.0, 70.0)
    )
    (part,) = [part for part in contents(suite) if part.name == "lengths-0"]
    (table,) = [block for block in part.blocks if isinstance(block, Table)]
    return [block.text for block in part.blocks if isinstance(block, Sentence)], table


def test_a_longer_run_of_a_cheaper_method_is_compared_at_equal_time(lengths: tuple[list[str], Table]) -> None:
    said, _ = lengths
    assert said == [
        "At as many meta-updates `mixflow` is not told apart from `unrolled`: +0 ± 0.",
        "At as many meta-updates `t1t2` is worse than `unrolled`: −5 ± 0.",
        "At about equal time (1.05×) `t1t2` with 375 outer steps is not told apart from `unrolled`: +0 ± 0.",
    ]


def test_every_run_stands_in_the_table_with_its_time(lengths: tuple[list[str], Table]) -> None:
    _, table = lengths
    assert [(one["method"], one["steps"], one["time_ratio"], one["value"]) for one in table.records] == [
        ("mixflow", 150, 3.0, pytest.approx(0, abs=1e-9)),
        ("t1t2", 150, 0.4, pytest.approx(-5)),
        ("t1t2", 375, 1.05, pytest.approx(0, abs=1e-9)),
        ("unrolled", 150, 1.0, None),
    ]
    assert table.to_csv() and table.to_latex()


def test_runs_of_one_length_or_of_one_method_say_nothing(load_rows: Any, synthetic: Any) -> None:
    for some in (
        rows(synthetic, "unrolled", 150, 10.0, 70.0) + rows(synthetic, "t1t2", 150, 4.0, 65.0),
        rows(synthetic, "unrolled", 150, 10.0, 70.0) + rows(synthetic, "unrolled", 375, 25.0, 71.0),
    ):
        assert not [part for part in contents(load_rows(some)) if part.name.startswith("lengths")]
