"""Predictions are made once, kept as long as they count, and decide which cells are started."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_choice import KERNELS

from metabench.core.errors import MetabenchError
from metabench.measure.kernels import foreseen
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash, predictor_hash
from metabench.suite.plan.plan import Plan, load_suite, plan
from metabench.suite.predict import cells as many
from metabench.suite.predict import predictions
from metabench.suite.predict.cells import predict_cells
from metabench.suite.predict.predictions import (
    CellPrediction,
    Predictions,
    kept_predictions,
    read_predictions,
    unfit,
    write_predictions,
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a predictor returns."""

    peak_bytes: int = 3000
    static_bytes: int = 1000
    dynamic_bytes: int = 2000
    flops: int = 40
    operations: int = 5
    tasks: int = 1
    message: str = ""
    note: str = ""


class Counting:
    """A predictor that remembers what it was asked."""

    def __init__(self, answer: Callable[[Cell], Any] = lambda cell: Figures()) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.answer = answer

    def __call__(self, cell: Cell, device: str | None) -> Any:
        self.asked.append((cell.method, device))
        return self.answer(cell)


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def predicted(cell: Cell, **figures: Any) -> CellPrediction:
    (entry,) = predict_cells([cell], Predictions(), silent, None, Counting(lambda cell: Figures(**figures)))
    return entry


def test_every_cell_has_a_prediction_in_the_order_of_the_plan(planned: Callable[..., Plan]) -> None:
    cells = planned(methods=["t1t2", "none", "unrolled"]).cells
    found = predict_cells(cells, Predictions(), silent, None, Counting())
    assert [(entry.method, entry.cell, entry.device) for entry in found] == [
        (cell.method, cell.hash, "cpu") for cell in cells
    ]
    assert {(entry.peak_bytes, entry.static_bytes, entry.dynamic_bytes) for entry in found} == {(3000, 1000, 2000)}
    assert all(
        entry.columns() == {"predicted_bytes": 3000, "prediction_note": "", "flops": 40} for entry in found
    )


def test_predictions_come_back_from_their_file(cell: Cell, tmp_path: Path) -> None:
    entry = predicted(cell)
    write_predictions(tmp_path / "deep" / "predictions.jsonl", [entry])
    assert read_predictions(tmp_path / "deep" / "predictions.jsonl").of(cell) == entry
    head, plain = map(json.loads, (tmp_path / "deep" / "predictions.jsonl").read_text().splitlines())
    assert head == {"metabench_predictions": predictions.PREDICTIONS_VERSION}
    assert plain == dataclasses.asdict(entry)


def test_what_still_counts_is_not_predicted_again(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = planned(methods=["t1t2", "none"]).cells
    first = predict_cells(cells, Predictions(), silent, None, Counting())
    again = Counting()
    assert predict_cells(cells, Predictions(first), silent, None, again) == first
    assert again.asked == []
    monkeypatch.setattr(predictions, "code_hash", lambda cell: "edited" if cell.method == "none" else code_hash(cell))
    predict_cells(cells, Predictions(first), silent, None, again)
    assert again.asked == [("none", None)]


@pytest.mark.parametrize(
    "change",
    [
        {"code_hash": "000000000000"},
        {"predictor_hash": "000000000000"},
        {"torch_version": "1.0.0"},
        {"device": "cuda"},
        {"threads": 2},
        {"cell": "00000000"},
        {"kernels": "other"},
        {"instruction_set": "other"},
    ],
)
def test_a_prediction_of_another_source_torch_device_kernel_or_cell_does_not_count(cell: Cell, change: dict[str, str]) -> None:
    assert Predictions([dataclasses.replace(predicted(cell), **change)]).of(cell) is None


def test_a_prediction_says_which_kernels_it_is_of_and_what_it_leaves_out(cell: Cell) -> None:
    entry = predicted(cell, note="workspaces are not counted")
    assert (entry.kernels, entry.instruction_set) == (cell.kernels, foreseen(cell.kernels))
    assert entry.columns()["prediction_note"] == entry.note == "workspaces are not counted"
    (on_cuda,) = predict_cells([cell], Predictions(), silent, "cuda", Counting())
    assert on_cuda.instruction_set == ""


def test_limits_seeds_and_measurement_leave_a_prediction_as_it_is(cell: Cell) -> None:
    entry = predicted(cell)
    other = dataclasses.replace(cell, limit_bytes=1, seeds=[9], measure={}, device_bytes=7)
    assert Predictions([entry]).of(other) == entry


def test_the_source_of_a_prediction_is_that_of_the_rows_and_what_predicts(cell: Cell) -> None:
    entry = predicted(cell)
    assert (entry.code_hash, entry.predictor_hash) == (code_hash(cell), predictor_hash())


def test_another_device_is_asked_for_and_noted(cell: Cell) -> None:
    counting = Counting()
    (entry,) = predict_cells([cell], Predictions(), silent, "cuda", counting)
    assert counting.asked == [("t1t2", "cuda")]
    assert entry.device == "cuda"
    assert Predictions([entry]).of(cell) is None
    assert Predictions([entry]).of(cell, "cuda") == entry


def test_a_cell_that_cannot_be_predicted_says_why_and_stops_no_other(planned: Callable[..., Plan]) -> None:
    def answer(cell: Cell) -> Figures:
        if cell.method == "t1t2":
            raise ZeroDivisionError("by zero")
        if cell.method == "none":
            raise MetabenchError("data set 'digits' is damaged")
        return Figures(0, 0, 0, 0, 0, message="data-dependent control flow")

    cells = planned(methods=["t1t2", "none", "unrolled"]).cells
    found = predict_cells(cells, Predictions(), silent, None, Counting(answer))
    assert [entry.message for entry in found] == [
        "ZeroDivisionError: by zero",
        "data set 'digits' is damaged",
        "data-dependent control flow",
    ]
    assert all(entry.columns() == {} and entry.peak_bytes == 0 for entry in found)


def test_a_prediction_that_takes_longer_than_the_cell_may_is_given_up(cell: Cell) -> None:
    def answer(cell: Cell) -> Figures:
        while True:
            time.sleep(0.01)

    short = dataclasses.replace(cell, limit_seconds=0.1)
    (entry,) = predict_cells([short], Predictions(), silent, None, Counting(answer))
    assert entry.message == "not predicted within the cell's time limit of 0.1 s"


def test_progress_counts_what_is_to_be_predicted(planned: Callable[..., Plan]) -> None:
    cells = planned(methods=["t1t2", "none", "unrolled"]).cells
    earlier = Predictions([predicted(cells[1])])
    told: list[tuple[str, int, int]] = []
    predict_cells(cells, earlier, lambda *what: told.append(what), None, Counting())
    assert told == [("predicting", 0, 2), ("predicting", 1, 2), ("predicting", 2, 2)]


def test_only_a_cell_predicted_to_pass_a_declared_device_does_not_fit(cell: Cell) -> None:
    declared = dataclasses.replace(cell, device_bytes=24 * 2**30)
    large = predicted(cell, peak_bytes=65_712_999_629)
    assert unfit(declared, large) == "predicted to need 61.2 GiB, the device has 24 GiB"
    assert unfit(declared, predicted(cell, peak_bytes=24 * 2**30)) == ""
    assert unfit(cell, large) == ""
    assert unfit(declared, None) == ""
    assert unfit(declared, predicted(cell, peak_bytes=0, message="no reason")) == ""


def test_a_file_that_is_none_is_refused_with_what_to_do(tmp_path: Path, cell: Cell) -> None:
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(MetabenchError, match=r"cannot be read: No such file.*metabench predict --out"):
        read_predictions(path)
    head = f'{{"metabench_predictions": {predictions.PREDICTIONS_VERSION}}}'
    for text in ("{\n", f'{head}\n{{"peak": 3}}\n', f"{head}\n3\n", f"{head}\n{{\n{{}}\n"):
        path.write_text(text)
        with pytest.raises(MetabenchError, match=r"damaged.*remove the file"):
            kept_predictions(path)
    path.write_text("[]\n")
    with pytest.raises(MetabenchError, match="expected a first line with 'metabench_predictions'"):
        read_predictions(path)


def test_a_file_of_another_version_is_made_anew(tmp_path: Path, cell: Cell) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [predicted(cell)])
    current = predictions.PREDICTIONS_VERSION
    path.write_text(path.read_text().replace(f'predictions": {current}', 'predictions": 0'))
    with pytest.raises(MetabenchError, match=f"version 0, expected {current}: run `metabench predict` again"):
        read_predictions(path)
    assert len(kept_predictions(path)) == 0
    assert len(kept_predictions(tmp_path / "absent.json")) == 0


def test_predictions_that_were_interrupted_go_on_where_they_were(planned: Callable[..., Plan], tmp_path: Path) -> None:
    path, cells = tmp_path / "predictions.jsonl", planned(methods=["t1t2", "none", "unrolled"]).cells

    def interrupted(cell: Cell) -> Figures:
        if cell.method == "unrolled":
            raise KeyboardInterrupt
        return Figures()

    with pytest.raises(KeyboardInterrupt), predictions.added_to(path, Predictions()) as keep:
        predict_cells(cells, Predictions(), silent, None, Counting(interrupted), keep=keep)
    with path.open("a") as file:
        file.write('{"problem": "toy_1d", "data')  # the machine went down in the middle of a line
    again = Counting()
    predict_cells(cells, kept_predictions(path), silent, None, again)
    assert again.asked == [("unrolled", None)]


def test_cells_that_differ_in_numbers_with_a_fraction_are_predicted_once(planned: Callable[..., Plan]) -> None:
    cells = planned(methods=[{"evograd": {"sigma": [0.1, 0.2, 0.3], "copies": [2, 3]}}]).cells
    counting = Counting()
    found = predict_cells(cells, Predictions(), silent, None, counting)
    assert len(counting.asked) == 2
    assert [entry.cell for entry in found] == [cell.hash for cell in cells]


def along(figures: Callable[[int], int], asked: list[int]) -> Callable[[Cell], Figures]:
    def answer(cell: Cell) -> Figures:
        asked.append(cell.inner_steps)
        at = figures(cell.inner_steps)
        return Figures(peak_bytes=at, static_bytes=10, dynamic_bytes=at - 10, flops=at, operations=at)

    return answer


def test_long_runs_are_read_off_the_line_through_three_short_ones(planned: Callable[..., Plan]) -> None:
    cells, asked = planned(methods=["unrolled"], inner_steps=[2, 50, 100]).cells, list[int]()
    found = predict_cells(cells, Predictions(), silent, None, Counting(along(lambda steps: 1000 + 64 * steps, asked)))
    assert sorted(asked) == [2, 3, 4]
    assert [entry.peak_bytes for entry in found] == [1000 + 64 * steps for steps in (2, 50, 100)]
    assert [entry.flops for entry in found] == [entry.peak_bytes for entry in found]


def test_a_line_that_starts_late_is_found(planned: Callable[..., Plan]) -> None:
    cells, asked = planned(methods=["unrolled"], inner_steps=[100]).cells, list[int]()
    late = along(lambda steps: 5000 if steps < 4 else 1000 * steps, asked)
    (found,) = predict_cells(cells, Predictions(), silent, None, Counting(late))
    assert found.peak_bytes == 100_000
    assert max(asked) <= 7


@pytest.mark.parametrize(
    ("method", "figures"),
    [("unrolled", lambda steps: 1000 * steps**2), ({"unrolled_remat": {"schedule": "sqrt"}}, lambda steps: 1000 * steps)],
    ids=["no line", "a method that declares none"],
)
def test_where_there_is_no_line_every_length_is_predicted_in_full(planned: Callable[..., Plan], method: Any, figures: Any) -> None:
    cells, asked = planned(methods=[method], inner_steps=[10, 20]).cells, list[int]()
    found = predict_cells(cells, Predictions(), silent, None, Counting(along(figures, asked)))
    assert {10, 20} <= set(asked)
    assert [entry.peak_bytes for entry in found] == [figures(10), figures(20)]


def test_no_line_is_sought_where_that_would_cost_more(planned: Callable[..., Plan]) -> None:
    cells, asked = planned(methods=["unrolled"], inner_steps=[5, 1]).cells, list[int]()
    predict_cells(cells, Predictions(), silent, None, Counting(along(lambda steps: 10 * steps, asked)))
    assert sorted(asked) == [1, 5]


def test_a_truncated_run_is_a_line_beyond_its_steps_alone(planned: Callable[..., Plan]) -> None:
    cells, asked = planned(methods=[{"truncated": {"steps": 10}}], inner_steps=[200]).cells, list[int]()
    (found,) = predict_cells(cells, Predictions(), silent, None, Counting(along(lambda steps: 1000 * min(steps, 10), asked)))
    assert found.peak_bytes == 10_000
    assert min(asked) == 12


@pytest.mark.parametrize(
    "method",
    ["none", "unrolled", {"unrolled_remat": {"schedule": "every"}}, "mixflow", {"truncated": {"steps": 3}}, "t1t2", "evograd"],
)
def test_a_line_is_within_two_percent_of_the_prediction_in_full(planned: Callable[..., Plan], method: Any) -> None:
    (cell,) = planned(problem="regularisation", methods=[method], inner_steps=[48]).cells
    (drawn,), (full,) = many.predict_group([cell]), many.predict_group([cell], lines=False)
    assert not drawn.message and not full.message
    for name in many.FIGURES:
        assert getattr(drawn, name) == pytest.approx(getattr(full, name), rel=0.02), name


def test_a_process_that_is_ended_costs_its_own_prediction_alone(tmp_path: Path) -> None:
    path = tmp_path / "deadly.py"
    path.write_text(
        "import os\nfrom metabench.core import Cost, Target, method\n\n"
        '@method(title="dies", target=Target.NONE, exact=True, cost=Cost(), citation="")\n'
        "def deadly(problem, state, meta, window, options, generator):\n    os._exit(9)\n"
    )
    toy = {"problem": "toy_1d", "inner_steps": [2], "outer_steps": 1, "methods": ["deadly", "none", "t1t2", "ift_cg"]}
    cells = plan(load_suite({"name": "deadly", "plugins": [str(path)], "kernels": KERNELS, "experiments": {"toy": toy}})).cells
    found = {entry.method: entry for entry in predict_cells(cells, Predictions(), silent, workers=2)}
    assert found["deadly"].message == "the process that predicted it was ended"
    assert not found["none"].message and found["t1t2"].peak_bytes > 0


def test_a_process_stays_with_a_setting_and_shares_none_while_others_wait() -> None:
    waiting = ["theirs", "new", "own", "newer"]
    taken = []
    while waiting:
        taken.append(min(waiting, key=lambda setting: many._rank(setting, "own", ["own", "theirs"])))
        waiting.remove(taken[-1])
    assert taken == ["own", "new", "newer", "theirs"]


def test_settings_are_told_apart_by_the_problem_and_not_by_the_method() -> None:
    toy = {"problem": "toy_1d", "inner_steps": [2, 3], "outer_steps": 1, "methods": ["none", "t1t2"]}
    other = toy | {"options": {"learning_rate": 0.05}}
    suite = {"name": "settings", "kernels": KERNELS, "experiments": {"toy": toy, "other": other}}
    settings = [many._setting(cell) for cell in plan(load_suite(suite)).cells]
    assert len(settings) == 8
    assert len(set(settings)) == 2
