"""Predictions for the cells of a suite, made in one process and kept in a file: JSON, one object a cell.

A prediction counts for a cell as long as the source behind both and torch are the ones that it was made with. Nothing here imports
torch until something is predicted.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError, TimeLimit
from metabench.measure.environment import torch_version
from metabench.measure.kernels import choose_kernels, foreseen
from metabench.results.atomic import write_text_atomically
from metabench.suite.byte_words import human_bytes
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash, predictor_hash

PREDICTIONS_VERSION = 2

Progress = Callable[[str, int, int], None]
"""(what runs, how much is done, of how much)."""

Predictor = Callable[[Cell, str | None], Any]
"""(cell, device) -> `metabench.suite.predict.predict_cells.Prediction`; a device of None is the cell's own."""


@dataclass(frozen=True)
class Predicted:
    """What one cell is predicted to need, and what the prediction is of and was made with.

    cell: the cell's hash. device: the one that it is predicted for. threads: of torch; some kernels take memory for each. kernels: the
    cell's; instruction_set: of the machine that predicts, since kernels allocate by it; empty for a GPU. code_hash: that of the source of
    the cell's rows; predictor_hash: that of the source that predicts. Bytes, floating-point operations and operations are those of one
    hypergradient. message: why there is no prediction; the figures are 0 then. note: what the bytes leave out, empty where nothing is
    known to be. seconds: how long it took.
    """

    problem: str
    dataset: str
    size: str
    inner_steps: int
    method: str
    cell: str
    device: str
    threads: int
    kernels: str
    instruction_set: str
    code_hash: str
    predictor_hash: str
    torch_version: str
    peak_bytes: int
    static_bytes: int
    dynamic_bytes: int
    flops: int
    operations: int
    message: str
    note: str
    seconds: float

    @property
    def key(self) -> tuple[str, ...]:
        """What two predictions that say the same have in common."""
        versions = (self.code_hash, self.predictor_hash, self.torch_version)
        place = (self.device, str(self.threads), self.kernels, self.instruction_set)
        return (self.problem, self.method, self.cell, *place, *versions)

    def columns(self) -> dict[str, int | str]:
        """Return the columns of a row that a prediction fills; none where there is no prediction."""
        if self.message:
            return {}
        return {"predicted_bytes": self.peak_bytes, "prediction_note": self.note, "flops": self.flops}


class OtherVersion(MetabenchError):
    """A file of predictions of another version."""


class Predictions:
    """The predictions of a file, found by cell."""

    def __init__(self, entries: Iterable[Predicted] = ()) -> None:
        self._found = {entry.key: entry for entry in entries}

    def of(self, cell: Cell, device: str | None = None) -> Predicted | None:
        """Return what is predicted for `cell` on a device (its own if None), by the source and the torch of now; None where nothing is."""
        return self._found.get(key_of(cell, device)) if self._found else None

    def are_of(self, cells: Sequence[Cell]) -> bool:
        """Tell whether these are the predictions of `cells`, each on its own device, and of no others."""
        return self._found.keys() == {key_of(cell) for cell in cells}

    def __len__(self) -> int:
        return len(self._found)


def read_predictions(path: Path) -> Predictions:
    """Return the predictions of a file; raise MetabenchError if it is not there or is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "cells" not in values:
            raise MetabenchError(f"predictions '{path}': expected a JSON object with 'version' and 'cells'")
        if values.get("version") != PREDICTIONS_VERSION:
            raise OtherVersion(
                f"predictions '{path}': version {values.get('version')}, expected {PREDICTIONS_VERSION}: run `metabench predict` again"
            )
        return Predictions(Predicted(**entry) for entry in values["cells"])
    except OSError as error:
        raise MetabenchError(
            f"predictions '{path}' cannot be read: {error.strerror}: `metabench predict --out` writes them"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise MetabenchError(
            f"predictions '{path}' are damaged ({error}): remove the file and run `metabench predict` again"
        ) from error


def kept_predictions(path: Path) -> Predictions:
    """Return the predictions of a file that is to be written anew: none where there is no file, or one of another version.

    Raises MetabenchError for a damaged one.
    """
    if not path.is_file():
        return Predictions()
    try:
        return read_predictions(path)
    except OtherVersion:
        return Predictions()


def write_predictions(path: Path, entries: Sequence[Predicted]) -> None:
    """Write `entries` to `path`, whole or not at all."""
    values = {"version": PREDICTIONS_VERSION, "cells": [dataclasses.asdict(entry) for entry in entries]}
    write_text_atomically(path, json.dumps(values, indent=1) + "\n")


def predict_cells(
    cells: Sequence[Cell],
    earlier: Predictions,
    progress: Progress,
    device: str | None = None,
    predictor: Predictor | None = None,
) -> list[Predicted]:
    """Return a prediction for each cell, in order; those that `earlier` holds are taken from it.

    predictor: `metabench.suite.predict.predict_cells.predict` unless given. Whatever goes wrong with one cell is its message: a cell that
    cannot be predicted can still be run. A prediction that takes longer than the cell may is given up.

    Raises:
        MetabenchError: this process has loaded torch with other kernels than a cell's.
    """
    found = [earlier.of(cell, device) for cell in cells]
    waiting = sum(entry is None for entry in found)
    predict = (predictor or _predictor()) if waiting else None
    done, entries = 0, []
    for cell, entry in zip(cells, found, strict=True):
        if entry is None and predict is not None:
            progress("predicting", done, waiting)
            entry = _predicted(cell, device, predict)
            done += 1
        assert entry is not None
        entries.append(entry)
    progress("predicting", waiting, waiting)
    return entries


def unfit(cell: Cell, predicted: Predicted | None) -> str:
    """Return why a cell is not to be started: predicted and declared memory; empty where it fits, or nothing is declared or predicted."""
    if predicted is None or predicted.message or not cell.device_bytes or predicted.peak_bytes <= cell.device_bytes:
        return ""
    return f"predicted to need {human_bytes(predicted.peak_bytes)}, the device has {human_bytes(cell.device_bytes)}"


def _predicted(cell: Cell, device: str | None, predict: Predictor) -> Predicted:
    from metabench.measure.clock import deadline

    choose_kernels(cell.kernels)
    begun = time.perf_counter()
    figures = dict.fromkeys(("peak_bytes", "static_bytes", "dynamic_bytes", "flops", "operations"), 0)
    message = note = ""
    try:
        with deadline(cell.limit_seconds):
            found = predict(cell, device)
        message, note = found.message, found.note
        figures = {name: getattr(found, name) for name in figures}
    except TimeLimit:
        message = f"not predicted within the cell's time limit of {cell.limit_seconds:g} s"
    except MetabenchError as error:
        message = str(error)
    except (
        Exception
    ) as error:  # a method or a problem may raise anything, and the other cells are to be predicted all the same
        message = f"{type(error).__name__}: {error}"
    return Predicted(
        problem=cell.problem,
        dataset=cell.dataset,
        size=cell.size,
        inner_steps=cell.inner_steps,
        method=cell.method,
        cell=cell.hash,
        device=device or cell.device,
        threads=cell.threads,
        kernels=cell.kernels,
        instruction_set=_instruction_set(cell, device),
        code_hash=code_hash(cell),
        predictor_hash=predictor_hash(),
        torch_version=torch_version(),
        message=message,
        note=note,
        seconds=round(time.perf_counter() - begun, 3),
        **figures,
    )


def key_of(cell: Cell, device: str | None = None) -> tuple[str, ...]:
    """Return the key that the prediction of `cell` has, made by the source and the torch of now for a device (its own if None)."""
    versions = (code_hash(cell), predictor_hash(), torch_version())
    place = (device or cell.device, str(cell.threads), cell.kernels, _instruction_set(cell, device))
    return (cell.problem, cell.method, cell.hash, *place, *versions)


def _instruction_set(cell: Cell, device: str | None) -> str:
    """Return the instruction set by which CPU kernels would allocate in a process of the cell; empty on a GPU."""
    return foreseen(cell.kernels) if (device or cell.device) == "cpu" else ""


def _predictor() -> Predictor:
    from metabench.suite.predict.predict_cells import predict

    return predict
