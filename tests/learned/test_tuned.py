"""The kind `tuned`: validation chooses in a grid, test data judge the choice, and a grid that is wrong is refused at planning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kernel_choice import KERNELS

from metabench.cli.exporting import export
from metabench.core.errors import MetabenchError
from metabench.learned.exported import read_exported
from metabench.learned.tasks import Part
from metabench.problems.learned_quadratics import Quadratics
from metabench.results.store import read_rows, rows_of, write_rows
from metabench.stages.grids import read_grid
from metabench.suite.plan.labels import load_data, problem_of
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell

PLUGIN = Path(__file__).parents[1] / "plugins" / "choices.py"


def cell(over: str, problem: str = "choices", method: str = "none", **changes: Any) -> Any:
    experiment = {"problem": problem, "kind": {"tuned": {"over": over}}, "methods": [method], **changes}
    suite = {"name": "x", "seeds": [0], "kernels": KERNELS, "plugins": [str(PLUGIN)], "experiments": {"a": experiment}}
    return plan(load_suite(suite)).cells[0]


def row(over: str, **changes: Any) -> dict[str, Any]:
    (found,) = run_cell(cell(over, **changes), lambda *told: None)
    return found


def test_validation_chooses_and_test_data_judge() -> None:
    found = row("rate = {0.01, 0.1, 1, 10, 100}; power = {1, 2, 3, 4}")
    assert found["status"] == "ok" and found["outer_steps"] == 0 and found["message"] == ""
    # The test is best at 0.1: chosen by it, the score would be 0.
    assert found["meta_summary"]["chosen rate"] == 1 and found["meta_summary"]["chosen power"] == 3
    assert found["quality"] == found["metrics"]["score"] == 1
    assert found["metrics"]["far: score"] == 1 and found["metrics"]["far: rate"] == 1
    assert found["metrics"]["far: score, tuned for it"] == 0 and found["metrics"]["far: rate, tuned for it"] == 10
    assert found["curves"]["far: curve"].values[0] == 1 and found["curves"]["far: curve, tuned for it"].values[0] == 10
    assert found["meta_summary"]["chosen rate, far: score"] == 10 and found["meta_summary"]["diverged points"] == 4
    along = found["curves"]["validation against rate"]
    assert along.x == (0.01, 0.1, 1, 10) and along.values == (2, 1, 0, 1) and along.log_x


def test_the_highest_is_chosen_where_the_metric_says_that_higher_is_better() -> None:
    found = row("rate = {0.01, 0.1, 1, 10, 100}; power = {1, 2, 3, 4}", options={"by": "gain"})
    assert found["meta_summary"]["chosen rate"] == 1 and found["meta_summary"]["chosen power"] == 3
    assert found["metrics"]["gain"] == -1 and found["meta_summary"]["diverged points"] == 4
    along = found["curves"]["validation against rate"]
    assert along.x == (0.01, 0.1, 1, 10) and along.values == (-2, -1, 0, -1) and not along.log_y


def test_a_choice_at_the_edge_is_told_and_its_row_can_be_kept(tmp_path: Path) -> None:
    found = row("rate = {1e-3 to 0.1 in 3}")
    assert found["message"] == "the best rate, 0.1, is at the edge of its grid"
    assert found["meta_summary"]["rate at the edge"] == 1
    write_rows(tmp_path / "rows.parquet", [found])
    (read,) = rows_of(read_rows(tmp_path / "rows.parquet"))
    assert read["kind_options"] == {"over": "rate = {1e-3 to 0.1 in 3}"} and read["metrics"] == found["metrics"]


def test_every_point_is_trained_with_a_method() -> None:
    found = row("rate = {0.1, 1, 10}", method="unrolled", outer_steps=2)
    assert found["status"] == "ok" and found["train_s"] > 0 and found["outer_steps"] == 2
    assert found["curves"]["far: curve"].values[1] < 1  # what was learned is what is judged


def test_a_grid_that_diverges_everywhere_is_a_row() -> None:
    found = row("word = *{1, 2}", options={"rate": 100.0})
    assert found["status"] == "diverged" and "2 of 2" in found["message"]


def test_a_value_is_set_into_a_text() -> None:
    grid = read_grid("optimiser = *, rate {1e-4 to 1e-1 in 4}, momentum {0.9, 0.5}; clip = {1, 2}")
    assert [axis.name for axis in grid.axes] == ["rate", "momentum", "clip"]
    points = [grid.options(point, {"optimiser": "nag, slow 1", "clip": None, "other": 5}) for point in grid.points()]
    assert len(points) == 16
    assert points[0] == {"optimiser": "nag, slow 1, rate 0.0001, momentum 0.5", "clip": 1, "other": 5}
    assert points[-1]["optimiser"] == "nag, slow 1, rate 0.1, momentum 0.9"
    names = [axis.name for axis in read_grid("conv = *, rate {1, 2}; dense = *, rate {1, 2}").axes]
    assert names == ["conv rate", "dense rate"]


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ("", "has nothing to tune over"),
        ("rate", "'rate' is no option with a value"),
        ("rate = 1", "has no values to choose from in braces"),
        ("rate = {1}", "needs two different values or more"),
        ("rate = {1, 1}", "needs two different values or more"),
        ("rate = {a, b}", "{a, b} holds no numbers"),
        ("rate = {0 to 1 in 3}", "is no spread of numbers"),
        ("rate = {1 to 2 in 2000}", "is no spread of numbers"),
        ("rate = {1, 2}; rate = {3, 4}", "has the option 'rate' twice"),
        ("rate = {1 to 2 in 100}; power = {1 to 90 in 100}", "10,000 points"),
        ("ratee = {1, 2}", "unknown option to tune 'ratee': did you mean 'rate'?"),
        ("rate = {1, 1000}", "must be at most 100, got 1000"),
        ("power = {0.5, 2}", "expected int, got 0.5"),
    ],
)
def test_a_grid_that_is_wrong_is_refused_at_planning(over: str, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        cell(over)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_method_that_trains_nothing_has_no_loss_to_choose_by() -> None:
    with pytest.raises(
        MetabenchError, match="has no numbers by which the options of 'none', which trains nothing, are chosen"
    ):
        cell("learning_rate = {0.1, 0.2}", problem="toy_1d")


def test_a_problem_without_numbers_of_its_own_is_tuned_by_the_outer_loss() -> None:
    found = row("outer_learning_rate = {1e-9, 0.3, 1e9}", problem="toy_1d", method="t1t2", outer_steps=20)
    assert found["status"] == "ok" and found["meta_summary"]["chosen outer_learning_rate"] == 0.3
    along = found["curves"]["validation against outer_learning_rate"]
    assert along.values[along.x.index(0.3)] == min(along.values) and 1e-9 in along.x
    assert found["quality"] is not None and found["train_s"] > 0


def test_a_learned_optimisers_rate_is_tuned_and_the_best_is_exported(tmp_path: Path) -> None:
    options = {"optimiser": "sgd", "test_tasks": 16, "horizon": 5}
    over, out = "optimiser = *, rate {1e-3, 1e-2, 1e9}", tmp_path / "rows.parquet"
    (found,) = run_cell(
        cell(over, problem="learned_quadratics", sizes=["d5"], options=options), lambda *told: None, out
    )
    assert found["status"] == "ok" and found["meta_summary"]["chosen rate"] == 0.01
    assert (
        found["problem_variant"].startswith("optimiser=sgd")
        and found["quality"] == found["metrics"]["area under the loss curve"]
    )
    write_rows(out, [found])
    export(out, tmp_path / "sgd.pt", None)
    assert read_exported(tmp_path / "sgd.pt").texts == {"": "sgd, rate 0.01"}


def test_no_test_task_chooses_an_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Part] = []
    begin = Quadratics.begin

    def noted(tasks: Quadratics, part: Part, stream: Any) -> Any:
        drawn.append(part)
        return begin(tasks, part, stream)

    monkeypatch.setattr(Quadratics, "begin", noted)
    one = cell(
        "optimiser = *, rate {1e-3, 1e-2}",
        problem="learned_quadratics",
        sizes=["d5"],
        options={"optimiser": "sgd", "horizon": 3},
    )
    problem = problem_of(one, 0, load_data(one), "cpu", "float64")
    meta = problem.initial()
    problem.chosen_by(meta)
    problem.validate(meta)
    assert set(drawn) == {Part.VALIDATION}
    problem.evaluate({}, meta)
    assert set(drawn) == {Part.VALIDATION, Part.TEST}
