"""A run of meta-training in a file, from which it can be resumed to the bit.

The file is a line that names the format, the sha256 of what follows, and a torch archive of plain values and tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabench.core.atomic import write_bytes_atomically
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import InnerState
from metabench.training import interruption
from metabench.training.record import Record
from metabench.training.run import Best, Run

_FORMAT = b"metabench checkpoint 3\n"

_MOST_SHARE = 100
"""Saving takes a hundredth of the time at most."""

_LONG_SECONDS = 30.0
"""Of training since the last save: worth one more at the end."""


class _Unusable(MetabenchError):
    """Why a file is not resumed from, in words that follow its name."""


@dataclass
class Checkpoint:
    """Where a run is saved, and when: every few minutes, between two outer steps, and when the process is asked to end.

    Attributes:
        path: the file.
        seconds: between two saves, at least a hundred times what one takes; 0: only when the process is asked to end.
        identity: what the run depends on besides its state: cell, seed and code. A run of another identity is not resumed.
    """

    path: Path
    seconds: float
    identity: str
    _saved: float = -math.inf
    _pause: float = math.inf

    def begin(self) -> None:
        """Count the time until the first save from now."""
        self._saved = time.monotonic()
        self._pause = self.seconds or math.inf

    def after_step(self, run: Run, last: bool) -> None:
        """Save `run` if it is time to, or if what follows its `last` step is not to cost a long run.

        Raises:
            Interrupted: the process was asked to end; the run is saved.
        """
        asked, began = interruption.asked(), time.monotonic()
        if asked or began - self._saved >= (min(self._pause, _LONG_SECONDS) if last else self._pause):
            try:
                self.save(run)
            except MetabenchError as error:  # of the disk: the run may still lead to its rows
                print(f"not saved after {run.step} outer steps: {error}", file=sys.stderr)
            self._saved = time.monotonic()
            self._pause = max(self.seconds, _MOST_SHARE * (self._saved - began)) if self.seconds else math.inf
        if asked:
            raise interruption.Interrupted(f"after {run.step} outer steps")

    def save(self, run: Run) -> None:
        """Save `run`, whole or not at all."""
        archive = io.BytesIO()
        torch.save({"identity": self.identity, "run": _plain(run)}, archive)
        content = archive.getvalue()
        write_bytes_atomically(self.path, _FORMAT + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def resume(self, problem: Problem, stream: torch.Generator) -> tuple[Run, str]:
        """Return the run that the file holds, and a note: where there is none that can be resumed, a fresh run.

        A file that is damaged, of another version or of another run is set aside, and the note names it.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Run.fresh(problem, stream), ""
        except OSError as error:
            raise MetabenchError(f"checkpoint '{self.path}' cannot be read: {error.strerror or error}") from error
        try:
            run = self._read(content, problem, stream)
            run.resumed += 1
            return run, ""
        except _Unusable as error:
            aside = self.path.with_name(f"{self.path.name}.aside-{hashlib.sha256(content).hexdigest()[:8]}")
            self.path.replace(aside)
            return Run.fresh(
                problem, stream
            ), f"the checkpoint {self.path.name} {error}: set aside as {aside.name}, and begun anew"

    def forget(self) -> None:
        """Remove the file: the run is done."""
        self.path.unlink(missing_ok=True)

    def _read(self, content: bytes, problem: Problem, stream: torch.Generator) -> Run:
        if not content.startswith(_FORMAT):
            named = content.startswith(_FORMAT.rpartition(b" ")[0])
            raise _Unusable("is of another version" if named else "is not a checkpoint")
        digest, _, archive = content[len(_FORMAT) :].partition(b"\n")
        if hashlib.sha256(archive).hexdigest().encode() != digest:
            raise _Unusable("is damaged")
        try:
            saved = torch.load(io.BytesIO(archive), map_location=problem.setting.device, weights_only=True)
        except pickle.UnpicklingError as error:
            raise _Unusable("holds something else than tensors, numbers and texts") from error
        if saved["identity"] != self.identity:
            raise _Unusable(f"is of another run ({saved['identity']}, this one is {self.identity})")
        return _restored(saved["run"], stream)


def _plain(run: Run) -> dict[str, Any]:
    """Return a run as plain containers of tensors, numbers and texts."""
    values = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    return values | {
        "stream": run.stream.get_state(),
        "tasks": {task: (state.params, state.optimiser, dict(state.memory)) for task, state in run.tasks.items()},
        "memory": dict(run.memory),
        "record": (run.record.numbers, {name: dataclasses.asdict(curve) for name, curve in run.record.whole.items()}),
        "best": run.best and (run.best.value, run.best.step, run.best.params, run.best.meta, run.best.answer),
    }


def _restored(values: dict[str, Any], stream: torch.Generator) -> Run:
    """Return the inverse of `_plain`; `stream` continues where the saved one was."""
    # torch.load may have placed it with the tensors, and a generator takes its state from the CPU.
    stream.set_state(values["stream"].cpu())
    numbers, whole = values["record"]
    return Run(
        **values
        | {
            "stream": stream,
            "tasks": {task: InnerState(*parts) for task, parts in values["tasks"].items()},
            "record": Record(numbers, {name: Curve(**fields) for name, fields in whole.items()}),
            "best": values["best"] and Best(*values["best"]),
        }
    )
