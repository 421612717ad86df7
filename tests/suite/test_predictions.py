"""Predictions are made once, kept as long as they count, and decide which cells are started."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.measure.kernels import foreseen
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash, predictor_hash
from metabench.suite.plan.plan import Plan
from metabench.suite.predict.predict_cells import predictions
from metabench.suite.predict.predictions import (
    Predicted,
    Predictions,
    kept_predictions,
    predict_cells,
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


def predicted(cell: Cell, **figures: Any) -> Predicted:
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
    write_predictions(tmp_path / "deep" / "predictions.json", [entry])
    assert read_predictions(tmp_path / "deep" / "predictions.json").of(cell) == entry
    (plain,) = json.loads((tmp_path / "deep" / "predictions.json").read_text())["cells"]
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


def test_a_file_is_of_a_plan_if_it_has_all_of_its_cells_and_no_others(planned: Callable[..., Plan]) -> None:
    cells = planned(methods=["t1t2", "none"]).cells
    found = Predictions(predicted(cell) for cell in cells)
    assert found.are_of(cells)
    assert not found.are_of(cells[:1])
    assert not Predictions(predicted(cell) for cell in cells[:1]).are_of(cells)


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
    path = tmp_path / "predictions.json"
    with pytest.raises(MetabenchError, match=r"cannot be read: No such file.*metabench predict --out"):
        read_predictions(path)
    version = f'"version": {predictions.PREDICTIONS_VERSION}'
    for text in ("{", f'{{{version}, "cells": [{{"peak": 3}}]}}', f'{{{version}, "cells": [3]}}'):
        path.write_text(text)
        with pytest.raises(MetabenchError, match=r"damaged.*remove the file"):
            kept_predictions(path)
    path.write_text("[]")
    with pytest.raises(MetabenchError, match="expected a JSON object"):
        read_predictions(path)


def test_a_file_of_another_version_is_made_anew(tmp_path: Path, cell: Cell) -> None:
    path = tmp_path / "predictions.json"
    write_predictions(path, [predicted(cell)])
    current = predictions.PREDICTIONS_VERSION
    path.write_text(path.read_text().replace(f'"version": {current}', '"version": 0'))
    with pytest.raises(MetabenchError, match=f"version 0, expected {current}: run `metabench predict` again"):
        read_predictions(path)
    assert len(kept_predictions(path)) == 0
    assert len(kept_predictions(tmp_path / "absent.json")) == 0
