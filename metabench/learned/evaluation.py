"""How good an optimiser is on a family of tasks: the losses along runs that it drives, without a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from metabench.autodiff.inner import step
from metabench.core.curves import Curve
from metabench.core.lazy import torch
from metabench.core.pictures import Picture
from metabench.core.problem import Problem
from metabench.core.randomness import generator
from metabench.core.types import InnerState, Tree
from metabench.learned.names import AREA, DIVERGED, FINAL, MEDIAN
from metabench.learned.tasks import Episode, Part, Tasks


class Driven(Protocol):
    """A problem whose inner runs can be on other tasks."""

    def on(self, tasks: Tasks) -> Problem:
        """Return the same problem on other tasks."""


CAP = 10.0
"""A loss counts as at most this many times the task's initial loss, so that a mean is not that of a few tasks that diverged."""


@dataclass(frozen=True)
class Trial:
    """Tasks on which an optimiser is judged; `name` stands before the figures.

    Attributes:
        steps: inner steps of a run.
        episodes: runs, each of new tasks.
        every: steps from one judgement to the next; the first and the last parameters are always judged.
    """

    name: str
    tasks: Tasks
    steps: int
    episodes: int
    every: int = 1

    def judges(self, step: int) -> bool:
        """Tell whether the parameters after `step` steps are judged."""
        return step == self.steps or (step < self.steps and step % self.every == 0)


@dataclass(frozen=True)
class Judged:
    """Losses along the runs of a trial, shape [points, tasks], in float64; `steps` of them before each, from 0.

    `pictures` are of the parameters at the end of the first run.
    """

    steps: Sequence[int]
    losses: torch.Tensor
    unit: str
    pictures: Mapping[str, Picture] = field(default_factory=dict)

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
        """Return the mean over steps and tasks of the capped loss after them: the area under the curve per step."""
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
        return Curve.over_tasks(self.steps, self.capped.T.tolist(), self.unit, log_y=True)


def _log10(value: float) -> float:
    return math.log10(max(value, 1e-30))


def judge(problem: Driven, trials: Sequence[Trial], meta: Tree, part: Part) -> list[Judged]:
    """Return the losses of each trial under the problem's inner optimiser at `meta`, on tasks of `part`: the same for every optimiser.

    Trials on the same tasks, of different lengths, are judged along the same runs.
    """
    together: dict[int, list[Trial]] = {}
    for trial in trials:
        together.setdefault(id(trial.tasks), []).append(trial)
    runs = {place: _runs(problem.on(alike[0].tasks), alike, meta, part) for place, alike in together.items()}
    return [_along(trial, runs[id(trial.tasks)]) for trial in trials]


@dataclass
class _Seen:
    """What was seen of an episode, by the number of steps before: the losses of its tasks, and pictures at the end of a trial."""

    losses: dict[int, torch.Tensor] = field(default_factory=dict)
    pictures: dict[int, Mapping[str, Picture]] = field(default_factory=dict)


def _along(trial: Trial, runs: Sequence[_Seen]) -> Judged:
    steps = [step for step in range(trial.steps + 1) if trial.judges(step)]
    losses = [torch.stack([run.losses[step] for step in steps]) for run in runs[: trial.episodes]]
    return Judged(steps, torch.cat(losses, dim=1).double().cpu(), trial.tasks.unit, runs[0].pictures[trial.steps])


def _runs(problem: Problem, alike: Sequence[Trial], meta: Tree, part: Part) -> list[_Seen]:
    """Return the losses along each episode that one of the trials, all on the same tasks, needs, to the longest that needs it."""
    found = []
    for number in range(max(trial.episodes for trial in alike)):
        needing = [trial for trial in alike if number < trial.episodes]
        episode = needing[0].tasks.begin(part, generator(problem.setting.seed, f"{part.value} task {number}"))
        found.append(_run(problem, needing, meta, episode))
    return found


def _run(problem: Problem, needing: Sequence[Trial], meta: Tree, episode: Episode) -> _Seen:
    tasks, last = needing[0].tasks, max(trial.steps for trial in needing)
    state = InnerState(episode.params, problem.optimiser.init(episode.params))
    seen = _Seen()
    for done in range(last + 1):
        if any(trial.judges(done) for trial in needing):
            with torch.no_grad():
                seen.losses[done] = tasks.judged(state.params, episode)
        if any(done == trial.steps for trial in needing):
            seen.pictures[done] = tasks.pictures(state.params, episode, seen.losses[done])
        if done < last:
            state = step(problem, state, meta, next(episode.batches))
    return seen
