"""The problem of learning an optimiser: its meta-parameters are those of the inner update, its episodes are tasks of a family.

In an episode an optimiser with fresh state drives `horizon` steps on a new task; windows cut it into pieces of `inner_steps`. Inner step
k is on batch k, and the outer objective of a window is the sum of the losses at every w_{k+1}, each on batch k + 1: Andrychowicz et al.
2016, equation 3 with w_t = 1. A family of tasks and its options make a problem of it: see `metabench.problems.learned_quadratics`.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metabench.core import Batch, MetaRole, Metric, Problem, Tree, Window, option
from metabench.core.curves import Curve
from metabench.core.lazy import torch
from metabench.core.problem import OuterOptimiser, Setting, Validation
from metabench.core.randomness import generator
from metabench.core.schedules import read_schedule
from metabench.learned.declared import read_optimiser
from metabench.learned.evaluation import Trial, judge
from metabench.learned.grouped import Driver
from metabench.learned.names import AREA, DIVERGED, FINAL, LOSS, MEDIAN, on_trial
from metabench.learned.tasks import Part, Tasks

METRICS = (Metric(AREA, "min"), Metric(FINAL, "min"), Metric(MEDIAN, "min"), Metric(DIVERGED, "min"))


@dataclass(frozen=True)
class LearnedOptions:
    """Options of every problem in which an optimiser is learned."""

    optimiser: str = option(
        "lstm",
        check=read_optimiser,
        help="the optimiser that is learned: 'lstm', or with its options, 'lstm, gain 0.1'",
    )
    horizon: int = option(100, minimum=1, help="inner steps of an episode")
    shortest: int = option(
        0,
        minimum=0,
        help="lengths of episodes are drawn log-uniformly from here to `horizon`; 0: all have `horizon` steps",
    )
    episodes: int = option(1, minimum=1, help="episodes at once, whose hypergradients a meta-update averages")
    stagger: bool = option(
        False, help="whether episodes at once are in different phases: the first ones are cut short by turns"
    )
    outer_learning_rate: float = option(3e-3, above=0, help="of the outer optimiser, Adam")
    outer_schedule: str = option(
        "constant", check=read_schedule, help="factor on the outer learning rate: 'cosine 1000'"
    )
    clip: float | None = option(None, above=0, help="largest norm of a hypergradient")
    validate_every: int = option(
        0,
        minimum=0,
        help="outer steps from one validation to the next; what validated best is tested; 0: the last is tested",
    )
    validation_episodes: int = option(1, minimum=1, help="episodes of validation")
    test_episodes: int = option(1, minimum=1, help="episodes of every test")
    transfers: bool = option(True, help="whether other tasks than those trained on are tested, too")


class LearnedOptimiserProblem(Problem):
    """Learn an optimiser on a family of tasks. A subclass says which: `family` and `trials`."""

    roles = frozenset({MetaRole.UPDATE})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: LearnedOptions = setting.options
        self.tasks = self.family()
        self.batch = self.tasks.batch
        self._drivers = {group: read_optimiser(text) for group, text in self.optimisers().items()}
        self.optimiser = Driver(self._drivers, self.tasks)
        schedule = read_schedule(options.outer_schedule)
        self.outer_optimiser = OuterOptimiser("Adam", options.outer_learning_rate, schedule=schedule, clip=options.clip)
        if options.validate_every:
            self.validation = Validation(options.validate_every, METRICS[0], best=True)

    @abstractmethod
    def family(self) -> Tasks:
        """Return the tasks to learn on."""

    def optimisers(self) -> Mapping[str, str]:
        """Return the texts of the optimisers by group of parameters; {'': text} if one updates all."""
        return {"": self.setting.options.optimiser}

    def trials(self) -> Sequence[Trial]:
        """Return the tests on other tasks than those trained on, or of other lengths."""
        return ()

    def on(self, tasks: Tasks) -> LearnedOptimiserProblem:
        """Return the same problem, with the same optimiser, on other tasks."""
        other = copy.copy(self)
        other.tasks = tasks
        other.optimiser = Driver(self._drivers, tasks)
        return other

    def initial(self) -> Tree:
        """Return the optimiser's initial meta-parameters; those of a group have its name before theirs."""
        stream = generator(self.setting.seed, "initial meta")
        drawn = self.optimiser.draw(stream)
        return {name: leaf.to(self.setting.device, self.setting.dtype) for name, leaf in drawn.items()}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the sum of the losses of the tasks: each has the gradient that it would have alone."""
        return self.tasks.losses(params, batch).sum()

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean of the losses of the tasks."""
        return self.tasks.losses(params, batch).mean()

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the next window of each episode at once; a new task begins where one has ended."""
        places = [self._place(place) for place in range(self.setting.options.episodes)]
        while True:
            yield [next(place) for place in places]

    def _place(self, place: int) -> Iterator[Window]:
        """Yield the windows of one episode after another, at one place of those at once."""
        seed, steps = self.setting.seed, self.setting.inner_steps
        for number in itertools.count():
            stream = generator(seed, f"{Part.TRAIN.value} task {place} {number}")
            length = self._length(place, number)
            episode = self.tasks.begin(Part.TRAIN, stream)
            batches = [next(episode.batches)]
            for done in range(0, length, steps):
                # Each batch serves twice: for the loss at w_k, then for the step from there.
                batches = batches[-1:] + [next(episode.batches) for _ in range(min(steps, length - done))]
                yield Window(tuple(batches[:-1]), tuple(batches[1:]), episode.params if done == 0 else None)

    def _length(self, place: int, number: int) -> int:
        """Return the number of steps of an episode, a function of the seed, the place and the episode's number."""
        options: LearnedOptions = self.setting.options
        length = options.horizon
        if 0 < options.shortest < length:
            drawn = torch.rand(
                (), generator=generator(self.setting.seed, f"length {place} {number}"), dtype=torch.float64
            )
            length = round(math.exp(math.log(options.shortest) + float(drawn) * math.log(length / options.shortest)))
        if options.stagger and number == 0:
            length = max(1, length - place * length // options.episodes)
        return length

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float | Curve]:
        """Return how the optimiser does on test tasks: of the family it was trained on, and of every trial."""
        found: dict[str, float | Curve] = {}
        for trial in self._judged_on(self.setting.options.test_episodes):
            judged = judge(self, trial, meta, Part.TEST)
            found |= {on_trial(trial.name, name): value for name, value in judged.numbers().items()}
            found[on_trial(trial.name, LOSS)] = judged.curve()
        return found

    def validate(self, meta: Tree) -> dict[str, float | Curve]:
        """Return the area under the curve on validation tasks of the family trained on."""
        own = self._judged_on(self.setting.options.validation_episodes)[0]
        return {AREA: judge(self, own, meta, Part.VALIDATION).area}

    def chosen_by(self, meta: Tree) -> dict[str, float]:
        """Return the area under the curve on validation tasks of every trial."""
        trials = self._judged_on(self.setting.options.validation_episodes)
        return {on_trial(trial.name, AREA): judge(self, trial, meta, Part.VALIDATION).area for trial in trials}

    def _judged_on(self, episodes: int) -> list[Trial]:
        own = Trial("", self.tasks, self.setting.options.horizon, episodes)
        return [own, *(self.trials() if self.setting.options.transfers else ())]

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the number of meta-parameters, and what the optimiser says of itself."""
        return self.optimiser.summary(meta)
