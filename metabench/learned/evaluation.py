"""How good an optimiser is on a family of tasks: the losses along runs that it drives, without a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from metabench.autodiff.inner import step
from metabench.core.curves import Curve
from metabench.core.lazy import torch
from metabench.core.problem import Problem
from metabench.core.randomness import generator
from metabench.core.types import InnerState, Tree
from metabench.learned.names import AREA, DIVERGED, FINAL, MEDIAN
from metabench.learned.tasks import Part, Tasks


class Driven(Protocol):
    """A problem whose inner runs can be on other tasks."""

    def on(self, tasks: Tasks) -> Problem:
        """Return the same problem on other tasks."""


CAP = 10.0
"""A loss counts as at most so many times the task's initial loss, so that a mean is not that of a few tasks that diverged."""


@dataclass(frozen=True)
class Trial:
    """An optimiser to be judged on tasks, for so many steps; its name stands before the figures."""

    name: str
    tasks: Tasks
    steps: int
    episodes: int


@dataclass(frozen=True)
class Judged:
    """Losses along the runs of a trial, shape [steps + 1, tasks], in float64: before the first step, and after each."""

    losses: torch.Tensor
    unit: str

    @property
    def diverged(self) -> torch.Tensor:
        """Return which tasks ended with a loss that is not finite, or is above `CAP` times the initial one, shape [tasks]."""
        return ~(self.losses[-1] <= CAP * self.losses[0])

    @property
    def capped(self) -> torch.Tensor:
        """Return the losses, none above `CAP` times its task's initial one; what is not finite counts as that."""
        most = CAP * self.losses[0]
        return torch.where(self.losses <= most, self.losses, most)

    @property
    def area(self) -> float:
        """Return the mean over steps and tasks of the capped loss after each step: the area under the curve per step."""
        return float(self.capped[1:].mean())

    def numbers(self) -> dict[str, float]:
        """Return what tables show: area, final loss in two ways, and the share of tasks that diverged."""
        final = self.capped[-1]
        return {
            AREA: self.area,
            FINAL: _log10(float(final.mean())),
            MEDIAN: _log10(float(final.median())),
            DIVERGED: 100 * float(self.diverged.double().mean()),
        }

    def curve(self) -> Curve:
        """Return median and quartiles over tasks against the step."""
        return Curve.over_tasks(range(len(self.losses)), self.capped.T.tolist(), self.unit, log_y=True)


def _log10(value: float) -> float:
    return math.log10(max(value, 1e-30))


def judge(problem: Driven, trial: Trial, meta: Tree, part: Part) -> Judged:
    """Return the losses of `trial` under the problem's inner optimiser at `meta`, on tasks of `part`: the same for every optimiser."""
    driven = problem.on(trial.tasks)
    found = [_run(driven, trial, meta, part, number) for number in range(trial.episodes)]
    return Judged(torch.cat(found, dim=1).double().cpu(), trial.tasks.unit)


def _run(problem: Problem, trial: Trial, meta: Tree, part: Part, number: int) -> torch.Tensor:
    """Return the losses along one episode, shape [steps + 1, tasks]."""
    tasks = trial.tasks
    episode = tasks.begin(part, generator(problem.setting.seed, f"{part.value} task {number}"))
    state = InnerState(episode.params, problem.optimiser.init(episode.params))
    with torch.no_grad():
        losses = [tasks.judged(state.params, episode)]
    for _ in range(trial.steps):
        state = step(problem, state, meta, next(episode.batches))
        with torch.no_grad():
            losses.append(tasks.judged(state.params, episode))
    return torch.stack(losses)
