"""A cell: problem x data set x size x method with its options. Its seeds run in one process; its spec is a JSON file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.randomness import LARGEST_SEED
from metabench.data.sets.own_text import dataset_folder
from metabench.measure.kernels import PORTABLE

SPEC_VERSION = 4


@dataclass(frozen=True)
class Cell:
    """Everything that decides a cell's rows, except the code. Options of its kind, problem and method are complete and validated.

    `limit_bytes` bounds the peak memory of one hypergradient, `limit_seconds` the whole cell. `device_bytes` is the memory that the device
    is declared to have, or 0: a cell predicted to need more is not started. `kernels` are those of the CPU, see
    `metabench.measure.kernels`. After `checkpoint_minutes` a run is saved; 0 for never but when its process is asked to end. `curve` are
    outer steps of which whole curves are kept. `replicate` is 1 for the partner of a baseline's cell: the same timed computation in another
    process.
    """

    suite: str
    experiment: str
    kind: str
    problem: str
    dataset: str
    size: str
    problem_options: dict[str, Any]
    inner_steps: int
    outer_steps: int
    method: str
    method_options: dict[str, Any]
    seeds: list[int]
    device: str
    dtype: str
    threads: int
    limit_seconds: float
    limit_bytes: int
    measure: dict[str, Any]
    plugins: list[str]
    device_bytes: int = 0
    kernels: str = PORTABLE
    checkpoint_minutes: float = 0.0
    kind_options: dict[str, Any] = field(default_factory=dict)
    curve: list[int] = field(default_factory=list)
    replicate: int = 0
    version: int = SPEC_VERSION

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits over everything that distinguishes two cells of a suite: not limits, seeds or how it is measured."""
        identity = (
            self.problem,
            self.dataset,
            self.size,
            self.problem_options,
            self.inner_steps,
            self.outer_steps,
            self.kind,
            self.kind_options,
            self.method,
            self.method_options,
            self.dtype,
            self.replicate,
        )
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def plugin_files(self) -> tuple[Path, ...]:
        """The Python files that may declare the cell's method, problem and data set."""
        return tuple(map(Path, self.plugins))

    @property
    def folder(self) -> Path:
        """The cell's folder under the suite's `cells/`: problem/dataset/size; a user's own text by a name made from its path."""
        return Path(self.problem, dataset_folder(self.dataset), self.size)

    @property
    def stem(self) -> str:
        """Name of the cell's files without suffix: method-hash."""
        return f"{self.method}-{self.hash}"

    @property
    def name(self) -> str:
        """The cell's name in its suite, PROBLEM/DATASET/SIZE/METHOD-HASH: of its files under `cells/`, too."""
        return f"{self.folder.as_posix()}/{self.stem}"

    @property
    def spec_hash(self) -> str:
        """Twelve hexadecimal digits over the whole spec: its limits, seeds and measurement, too, which the name leaves out."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Return the spec as text; the same cell gives the same text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    def _check(self, where: str) -> None:
        """Raise MetabenchError, naming `where`, for numbers that no plan has."""
        for name, least, most in (
            ("inner_steps", 1, math.inf),
            ("outer_steps", 0, math.inf),
            ("threads", 1, math.inf),
            ("replicate", 0, 1),
        ):
            _check_whole(getattr(self, name), least, most, f"{where}: '{name}'")
        if not isinstance(self.seeds, list) or not self.seeds:
            raise MetabenchError(f"{where}: 'seeds' is {self.seeds!r}, expected a list of one or more")
        for seed in self.seeds:
            _check_whole(seed, 0, LARGEST_SEED, f"{where}: a seed")

    @classmethod
    def from_json(cls, text: str, where: str) -> Cell:
        """Return the cell of a spec; raise MetabenchError naming `where` if the spec is invalid."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise MetabenchError(f"{where}: a spec is a JSON object")
            if values.get("version") != SPEC_VERSION:
                raise MetabenchError(
                    f"{where}: spec version {values.get('version')}, expected {SPEC_VERSION}: plan the suite again"
                )
            cell = cls(**values)
            cell._check(where)
            return cell
        except (json.JSONDecodeError, TypeError) as error:
            raise MetabenchError(f"{where}: not a cell's spec: {error}") from error


def _check_whole(value: Any, least: int, most: float, what: str) -> None:
    if type(value) is not int or not least <= value <= most:
        bound = "or more" if most == math.inf else f"to {most}"
        raise MetabenchError(f"{what} is {value!r}, expected a whole number, {least} {bound}")
