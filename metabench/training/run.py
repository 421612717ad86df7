"""Where a run of meta-training is: all that its next outer step depends on, and what was seen so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from metabench.autodiff.outer import OuterUpdate
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.types import InnerState, OptimiserState, Tree
from metabench.training.record import Record

OUTER_LOSS = "outer loss"
"""The name of the curve that every run has."""


@dataclass(frozen=True)
class Best:
    """The validation that was best so far: its value, the outer step, what was learned by then, and the method's own answer."""

    value: float
    step: int
    params: Tree
    meta: Tree
    answer: Tree | None = None


@dataclass
class Run:
    """A run of meta-training, between two outer steps.

    Attributes:
        meta: the meta-parameters.
        optimiser: the state of the outer optimiser.
        stream: what the method draws from.
        step: outer steps done.
        tasks: the inner state of each place in the list of tasks.
        answer: the parameters that the method itself proposes for the first task; None where it proposes none.
        memory: what the problem's `after_update` keeps.
        record: numbers seen along the run.
        outer_loss: the outer objective of the last outer step, averaged over its tasks.
        best: the best validation; None before the first.
        waited: validations since then.
        seconds: spent in training: data, hypergradients and updates; neither validation nor what is observed.
        data_seconds: spent on data.
        resumed: how often it went on from a checkpoint.
    """

    meta: Tree
    optimiser: OptimiserState
    stream: torch.Generator
    step: int = 0
    tasks: dict[int, InnerState] = field(default_factory=dict)
    answer: Tree | None = None
    memory: Mapping[str, Tree] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    outer_loss: float = math.nan
    best: Best | None = None
    waited: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    resumed: int = 0

    @classmethod
    def fresh(cls, problem: Problem, stream: torch.Generator) -> Run:
        """Return a run of `problem` before its first outer step."""
        meta = problem.initial()
        return cls(meta, OuterUpdate(problem.outer_optimiser).init(meta), stream)

    def stopped(self, problem: Problem) -> bool:
        """Tell whether validation asks to end the run early."""
        rule = problem.validation
        return rule is not None and 0 < rule.patience <= self.waited

    def outcome(self, problem: Problem) -> tuple[Tree, Tree]:
        """Return the first task's parameters and the meta-parameters that the run leads to.

        They are the last ones, unless validation ends training early or decides: then those of the best validation.
        """
        best = self._decisive(problem)
        return (best.params, best.meta) if best else (self.tasks[0].params, self.meta)

    def answered(self, problem: Problem) -> Tree | None:
        """Return the parameters that the method itself proposes there, for the first task; None where it proposes none."""
        best = self._decisive(problem)
        return best.answer if best else self.answer

    def late_loss(self, problem: Problem) -> float:
        """Return the mean outer loss over the last tenth, at least one, of the outer steps that lead to the outcome.

        Of one step it may be the loss of a single batch, too noisy to choose options by.
        """
        best = self._decisive(problem)
        last = best.step if best else self.step
        losses = self.record.numbers[OUTER_LOSS][1][:last]
        return statistics.fmean(losses[-math.ceil(last / 10) :])

    def _decisive(self, problem: Problem) -> Best | None:
        """Return the best validation where the outcome is its, None where it is the last step's."""
        rule = problem.validation
        return self.best if rule is not None and (rule.patience or rule.best) else None
