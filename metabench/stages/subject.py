"""What is measured: a method with its options on a problem, for one seed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metabench.core.lazy import torch
from metabench.core.method import Hypergradient, Method
from metabench.core.problem import Problem
from metabench.core.randomness import generator
from metabench.core.types import InnerState, Progress, Tree, Window
from metabench.training.checkpoint import Checkpoint
from metabench.training.plain import plain_windows

Row = dict[str, Any]

PRECISE = "float64"
"""The dtype in which derivatives and errors are checked."""


@dataclass(frozen=True)
class Subject:
    """A method with its options on a problem, for one seed, and how it is measured.

    Attributes:
        make: from a dtype, as 'float32', to the problem in it.
        dtype: in which memory, time and quality are measured.
        method: the method.
        options: its options, typed.
        seed: of the problem and of what the method draws.
        device: where it runs, as 'cpu'.
        measure: how it is measured, by the keys of a suite's `measure`.
        limit_bytes: the most memory that one hypergradient may take; None for any.
        check_seconds: how long the checks of the exact hypergradient may take.
        outer_steps: meta-updates of a run.
        curve: outer steps of which whole curves are kept, besides the last.
        first: whether it is the first of its process: what holds for all seeds is checked there, and the first call timed.
        progress: called with what runs.
        kind_options: the options of the kind of experiment, typed.
        checkpoint: where a run is saved to and resumed from; None for nowhere.
        dataset: of the problem, by name.
        prepared: the folders of the parts that the kind of experiment prepares, by name; none where the stages compute them.
        keep: called with the problem that was trained on and the meta-parameters that its run led to.
    """

    make: Callable[[str], Problem]
    dtype: str
    method: Method
    options: Any
    seed: int
    device: str
    measure: Mapping[str, Any]
    limit_bytes: int | None
    check_seconds: float
    outer_steps: int
    first: bool
    progress: Progress
    kind_options: Any = None
    checkpoint: Checkpoint | None = None
    curve: Collection[int] = ()
    dataset: str = ""
    prepared: Mapping[str, Path] = field(default_factory=dict)
    keep: Callable[[Problem, Tree], None] = lambda problem, meta: None

    @functools.cached_property
    def problem(self) -> Problem:
        """The problem in the dtype that is measured."""
        return self.make(self.dtype)

    def stream(self, purpose: str) -> torch.Generator:
        """Return the random numbers that the method draws for one purpose."""
        return generator(self.seed, purpose, self.device)

    def hypergradient(
        self, problem: Problem, state: InnerState, meta: Tree, window: Window, stream: torch.Generator
    ) -> Hypergradient:
        """Return the method's answer."""
        return self.method(problem, state, meta, window, self.options, stream)

    def tell(self, what: str, done: int = 0, total: int = 1) -> None:
        """Report what runs."""
        self.progress(f"seed {self.seed}: {what}", done, total)

    def from_checkpoint(self, problem: Problem, meta: Tree) -> Iterator[tuple[Problem, InnerState, Window]]:
        """Yield what the method is given at the windows from which all methods are compared.

        They follow a few windows of plain training at the initial meta-parameters, the same for every method.
        """
        return itertools.islice(plain_windows(problem, meta), self.measure["checkpoint"], None)
