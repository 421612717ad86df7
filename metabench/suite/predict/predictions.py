"""Predictions for the cells of a suite, kept in a file: one JSON object per line and cell, added as soon as it is known.

A prediction counts for a cell as long as the source behind both and torch are the ones that it was made with. Nothing here imports
torch until something is predicted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_text_atomically
from metabench.core.errors import MetabenchError
from metabench.measure.environment import torch_version
from metabench.measure.kernels import foreseen
from metabench.suite.byte_words import human_bytes
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash, predictor_hash

PREDICTIONS_VERSION = 4

@dataclass(frozen=True)
class CellPrediction:
    """What one cell is predicted to need, and what the prediction is of and was made with.

    cell: the cell's hash. device: the one that it is predicted for. threads: of torch; some kernels take memory for each. kernels: the
    cell's; instruction_set: of the machine that predicts, since kernels allocate by it; empty for a GPU. code_hash: that of the source of
    the cell's rows; predictor_hash: that of the source that predicts. Bytes, floating-point operations and operations are those of one
    hypergradient; tasks: those of an outer step, each of which has one. message: why there is no prediction; the figures are 0 then. note:
    what the bytes leave out, empty where nothing is known to be. seconds: how long it took.
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
    tasks: int
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

    def __init__(self, entries: Iterable[CellPrediction] = ()) -> None:
        self._found = {entry.key: entry for entry in entries}

    def of(self, cell: Cell, device: str | None = None) -> CellPrediction | None:
        """Return what is predicted for `cell` on a device (its own if None), by the source and the torch of now; None where nothing is."""
        return self._found.get(key_of(cell, device)) if self._found else None

    def __iter__(self) -> Iterator[CellPrediction]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)


def read_predictions(path: Path) -> Predictions:
    """Return the predictions of a file, except a last line that an interruption left unfinished.

    Raises MetabenchError if the file is not there or holds no predictions.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        head = json.loads(lines[0]) if lines else {}
        version = head.get(_HEAD) if isinstance(head, dict) else None
        if version is None:
            raise MetabenchError(f"predictions '{path}': expected a first line with '{_HEAD}', then one JSON object per line")
        if version != PREDICTIONS_VERSION:
            raise OtherVersion(f"predictions '{path}': version {version}, expected {PREDICTIONS_VERSION}: run `metabench predict` again")
        return Predictions(CellPrediction(**json.loads(line)) for line in lines[1:])
    except OSError as error:
        raise MetabenchError(
            f"predictions '{path}' cannot be read: {error.strerror}: `metabench predict --out` writes them"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise MetabenchError(
            f"predictions '{path}' are damaged ({error}): remove the file and run `metabench predict` again"
        ) from error


def kept_predictions(path: Path) -> Predictions:
    """Return the predictions of a file that is to be added to: none where there is no file, or one of another version.

    Raises MetabenchError for a damaged one.
    """
    if not path.is_file():
        return Predictions()
    try:
        return read_predictions(path)
    except OtherVersion:
        return Predictions()


def write_predictions(path: Path, entries: Iterable[CellPrediction]) -> None:
    """Write `entries` to `path`, whole or not at all."""
    write_text_atomically(path, _text({_HEAD: PREDICTIONS_VERSION}) + "".join(_text(dataclasses.asdict(entry)) for entry in entries))


@contextlib.contextmanager
def added_to(path: Path, earlier: Predictions) -> Iterator[Callable[[CellPrediction], None]]:
    """Yield what adds a prediction to the file, which holds `earlier` first: a run that is interrupted goes on from there."""
    write_predictions(path, earlier)
    with path.open("a", encoding="utf-8") as file:

        def add(entry: CellPrediction) -> None:
            file.write(_text(dataclasses.asdict(entry)))
            file.flush()

        yield add


_HEAD = "metabench_predictions"


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def unfit(cell: Cell, predicted: CellPrediction | None) -> str:
    """Return why a cell is not to be started: predicted and declared memory; empty where it fits, or nothing is declared or predicted."""
    if predicted is None or predicted.message or not cell.device_bytes or predicted.peak_bytes <= cell.device_bytes:
        return ""
    return f"predicted to need {human_bytes(predicted.peak_bytes)}, the device has {human_bytes(cell.device_bytes)}"


def key_of(cell: Cell, device: str | None = None) -> tuple[str, ...]:
    """Return the key that the prediction of `cell` has, made by the source and the torch of now for a device (its own if None)."""
    versions = (code_hash(cell), predictor_hash(), torch_version())
    place = (device or cell.device, str(cell.threads), cell.kernels, instruction_set_of(cell, device))
    return (cell.problem, cell.method, cell.hash, *place, *versions)


def instruction_set_of(cell: Cell, device: str | None) -> str:
    """Return the instruction set by which CPU kernels would allocate in a process of the cell; empty on a GPU."""
    return foreseen(cell.kernels) if (device or cell.device) == "cpu" else ""
