"""The problem of learning an optimiser: its meta-parameters are those of the inner update, its episodes are tasks of a family.

In an episode an optimiser with fresh state drives `horizon` steps on a new task; windows cut it into pieces of `inner_steps`. Inner step
k is on batch k, and the outer objective of a window is the sum of the losses at every w_{k+1}, each on batch k + 1: Andrychowicz et al.
2016, equation 3 with w_t = 1. A family of tasks and its options make a problem of it: see `metabench.problems.learned_quadratics`.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from metabench.core import Batch, MetaRole, Metric, Problem, Tree, Window, option
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.pictures import Picture
from metabench.core.problem import OuterOptimiser, Setting, Validation
from metabench.core.randomness import generator, stream_seed
from metabench.core.schedules import read_schedule
from metabench.learned.declared import read_optimiser
from metabench.learned.evaluation import Trial, judge
from metabench.learned.exported import Exported, check_source, needed, read_exported
from metabench.learned.grouped import Driver
from metabench.learned.names import AREA, DIVERGED, FINAL, LOSS, MEDIAN, on_trial
from metabench.learned.response import responses
from metabench.learned.scaled import Scaled
from metabench.learned.tasks import Part, Tasks

METRICS = (Metric(AREA, "min"), Metric(FINAL, "min"), Metric(MEDIAN, "min"), Metric(DIVERGED, "min"))


def read_lengths(text: str) -> tuple[int, ...]:
    """Return the numbers of steps that a text like '200, 1000' names; raise MetabenchError if one is no positive integer."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() and int(word) for word in words):
        raise MetabenchError(f"'{text}': expected numbers of steps, as '200, 1000'")
    return tuple(int(word) for word in words)


@dataclass(frozen=True)
class LearnedOptions:
    """Options of every problem in which an optimiser is learned."""

    optimiser: str = option(
        "lstm",
        check=read_optimiser,
        help="the optimiser that is learned: 'lstm', or with its options, 'lstm, gain 0.1'",
    )
    start: str = option(
        "",
        check=check_source,
        needs=needed,
        help="trained optimiser to begin with, or with method `none` to judge: a file of `metabench export`, or a name; empty: drawn",
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
    scaling: float = option(
        0.0,
        minimum=0,
        help="tasks to train on are in random units: a factor from exp(-scaling) to exp(scaling) for every coordinate; 0: as they are",
    )
    validate_every: int = option(
        0,
        minimum=0,
        help="outer steps from one validation to the next; what validated best is tested; 0: the last is tested",
    )
    validation_episodes: int = option(1, minimum=1, help="episodes of validation")
    test_episodes: int = option(1, minimum=1, help="episodes of every test")
    longer: str = option(
        "", check=read_lengths, help="numbers of steps of further tests on the tasks trained on: '200, 1000'"
    )
    judge_every: int = option(1, minimum=1, help="inner steps from one judgement of a test to the next")
    transfers: bool = option(True, help="whether other tasks than those trained on are tested, too")


class LearnedOptimiserProblem(Problem):
    """Learn an optimiser on a family of tasks. A subclass says which: `family`, and on which `others` it is tested."""

    roles = frozenset({MetaRole.UPDATE})
    optimiser: Driver

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options: LearnedOptions = setting.options
        if options.shortest > options.horizon:
            raise MetabenchError(
                f"the shortest episode has {options.shortest} steps, and `horizon`, the longest, {options.horizon}"
            )
        self.tasks = Scaled(self.family(), options.scaling) if options.scaling else self.family()
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

    def others(self) -> Mapping[str, Tasks]:
        """Return other tasks than those trained on, by name: the optimiser is tested on them as it is."""
        return {}

    def on(self, tasks: Tasks) -> LearnedOptimiserProblem:
        """Return the same problem, with the same optimiser, on other tasks."""
        other = copy.copy(self)
        other.tasks = tasks
        other.optimiser = Driver(self._drivers, tasks)
        return other

    def initial(self) -> Tree:
        """Return the optimiser's initial meta-parameters; those of a group have its name before theirs.

        Raises:
            MetabenchError: they begin with those of another optimiser.
        """
        if self.setting.options.start:
            drawn = self._started(read_exported(self.setting.options.start))
        else:
            drawn = self.optimiser.draw(generator(self.setting.seed, "initial meta"))
        return {name: leaf.to(self.setting.device, self.setting.dtype) for name, leaf in drawn.items()}

    def _started(self, trained: Exported) -> Tree:
        if trained.chosen() != self._drivers:
            theirs, own = (", ".join(one.values()) for one in (trained.texts, self.optimisers()))
            raise MetabenchError(
                f"option 'start': '{trained.source}' is '{theirs}', and the optimiser that is learned is '{own}'"
            )
        return trained.meta

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the sum of the losses of the tasks: each has the gradient that it would have alone."""
        return self.tasks.losses(params, batch).sum()

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        """Return the mean of the losses of the tasks."""
        return self.tasks.losses(params, batch).mean()

    def windows(self) -> Iterator[Sequence[Window]]:
        """Yield the next window of each episode at once; a new task begins where one has ended."""
        return self.windows_after(0)

    def windows_after(self, outer_steps: int) -> Iterator[Sequence[Window]]:
        """Yield the windows after `outer_steps` outer steps; of what is past, only the episodes that still run are drawn."""
        places = [self._place(place, outer_steps) for place in range(self.setting.options.episodes)]
        while True:
            yield [next(place) for place in places]

    def _place(self, place: int, past: int) -> Iterator[Window]:
        """Yield the windows of one episode after another, at one place of those at once, without the first `past`."""
        seed, steps = self.setting.seed, self.setting.inner_steps
        for number in itertools.count():
            length = self._length(place, number)
            pieces = math.ceil(length / steps)
            if past >= pieces:
                past -= pieces
                continue
            episode = self.tasks.begin(Part.TRAIN, generator(seed, f"{Part.TRAIN.value} task {place} {number}"))
            batches = [next(episode.batches)]
            for done in range(0, length, steps):
                # Each batch serves twice: for the loss at w_k, then for the step from there.
                batches = batches[-1:] + [next(episode.batches) for _ in range(min(steps, length - done))]
                if past:
                    past -= 1
                else:
                    yield Window(tuple(batches[:-1]), tuple(batches[1:]), episode.params if done == 0 else None)

    def _length(self, place: int, number: int) -> int:
        """Return the number of steps of an episode, a function of the seed, the place and the episode's number."""
        options: LearnedOptions = self.setting.options
        length = options.horizon
        if 0 < options.shortest < length:
            # Python's random numbers: a length must be known where tensors have no values, as in a prediction.
            drawn = random.Random(stream_seed(self.setting.seed, f"length {place} {number}")).random()
            length = round(math.exp(math.log(options.shortest) + drawn * math.log(length / options.shortest)))
        if options.stagger and number == 0:
            length = max(1, length - place * length // options.episodes)
        return length

    def evaluate(self, params: Tree, meta: Tree) -> dict[str, float | Curve | Picture]:
        """Return how the optimiser does on test tasks: of the family it was trained on, and of every trial."""
        found: dict[str, float | Curve | Picture] = {}
        trials = self._judged_on(self.setting.options.test_episodes)
        for trial, judged in zip(trials, judge(self, trials, meta, Part.TEST), strict=True):
            found |= {on_trial(trial.name, name): value for name, value in judged.numbers().items()}
            found |= {on_trial(trial.name, name): picture for name, picture in judged.pictures.items()}
            found[on_trial(trial.name, LOSS)] = judged.curve()
        return found | responses(self._drivers, meta)

    def validate(self, meta: Tree) -> dict[str, float | Curve]:
        """Return the area under the curve on validation tasks of the family trained on."""
        (own,) = judge(self, self._judged_on(self.setting.options.validation_episodes)[:1], meta, Part.VALIDATION)
        return {AREA: own.area}

    def chosen_by(self, meta: Tree) -> dict[str, float]:
        """Return the area under the curve on validation tasks of every trial."""
        trials = self._judged_on(self.setting.options.validation_episodes)
        found = judge(self, trials, meta, Part.VALIDATION)
        return {on_trial(trial.name, AREA): judged.area for trial, judged in zip(trials, found, strict=True)}

    def _judged_on(self, episodes: int) -> list[Trial]:
        """Return the trials: that on the tasks and the horizon trained on first."""
        options: LearnedOptions = self.setting.options
        own = Trial("", self.tasks, options.horizon, episodes, options.judge_every)
        if not options.transfers:
            return [own]
        longer = [
            replace(own, name=f"{steps} steps", steps=steps, episodes=1) for steps in read_lengths(options.longer)
        ]
        others = [
            Trial(name, tasks, options.horizon, episodes, options.judge_every) for name, tasks in self.others().items()
        ]
        return [own, *longer, *others]

    def summary(self, meta: Tree) -> dict[str, float]:
        """Return the number of meta-parameters, and what the optimiser says of itself."""
        return self.optimiser.summary(meta)
