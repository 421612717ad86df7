"""What nets are judged by: a table, the shared weights of a supernet, or training from nothing.

All judge on tasks of the validation domains, the same for every net of a search: its seed draws them, and nothing that a strategy does
moves the stream. Test tasks are touched once, after the choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from metabench.core import Tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import stream_seed
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.models.search_space import Space
from metabench.models.supernet import Supernet
from metabench.problems.few_shot import HEAD, FewShot
from metabench.search.driver import Cost
from metabench.search.flops import of_joint_training, of_training
from metabench.tasks.joint import Joint, jointly_trained
from metabench.tasks.trained import meta_trained

_FURTHEST = 1_000_000
"""Tasks are numbered below this; searches of other seeds begin elsewhere."""


def adaptation_cost(
    space: Space, net: str, image: Sequence[int], ways: int, images: tuple[int, int], steps: int, *, head: bool = False
) -> Cost:
    """Return what adapting to a task costs: gradients on its support, and one pass over its queries.

    A gradient costs three passes, less that by the input of the stem, whose derivative nobody needs. Where the head alone adapts, a
    gradient costs a pass, and the head's product a second time.

    Args:
        space: of the net.
        net: its encoding.
        image: shape [channels, side, side].
        ways: classes.
        images: in a support, and queried.
        steps: of adaptation.
        head: whether the head alone adapts.
    """
    forward, width = space.flops(net, image, ways), space.width_of(net)
    stem = 2 * 9 * image[0] * width * image[-1] ** 2
    gradient = forward + 2 * ways * width * space.last_side(image[-1]) ** 2 if head else 3 * forward - stem
    support, queried = images
    return Cost(1, steps, float(steps * support * gradient + queried * forward))


class _OnTasks(ABC):
    """A fitness whose tasks cost the same, one like the other."""

    tasks: int

    @abstractmethod
    def _each(self, encoding: str) -> Cost:
        """Return what one task costs."""

    def _once(self, encoding: str) -> Cost:
        """Return what a net costs before its first task."""
        return Cost()

    def cost(self, encoding: str, tasks: int) -> Cost:
        """Return what judging a net on some tasks costs."""
        each, once = self._each(encoding), self._once(encoding)
        many = Cost(each.adaptations * tasks, each.gradients * tasks, each.flops * tasks)
        return many + once


class TableFitness(_OnTasks):
    """Looks nets up; what is paid is what training and judging them would cost.

    Args:
        table: of the nets.
        space: of the table.
        seed: draws the tasks among those of the table.
        tasks: how many; 0: all.
        training_seed: whose nets are looked up; None: the mean over all seeds of the table, which no search could afford.

    Raises:
        MetabenchError: the table has fewer tasks.
    """

    def __init__(
        self, table: NetTable, space: Space, seed: int, tasks: int = 0, training_seed: int | None = None
    ) -> None:
        stored = len(table.pixels[VALIDATION])
        if tasks > stored:
            raise MetabenchError(f"{tasks} validation tasks, and the table has {stored}")
        self.table, self.space, self.tasks = table, space, tasks or stored
        order = np.argsort(np.random.PCG64(stream_seed(seed, "tasks of the table")).random_raw(stored), kind="stable")
        self._order = order if tasks else np.arange(stored)
        self._seeds = None if training_seed is None else [table.seeds[training_seed % len(table.seeds)]]
        self._known: dict[int, np.ndarray] = {}

    def __call__(self, encoding: str, tasks: int) -> float:
        """Return the accuracy (%) on the first `tasks` of the tasks drawn."""
        if tasks not in self._known:
            self._known[tasks] = self.table.accuracies(VALIDATION, seeds=self._seeds, tasks=self._order[:tasks])
        return float(self._known[tasks][self.table.row(encoding)])

    def _shape(self) -> tuple[Any, ...]:
        about = self.table.about
        images = (about["ways"] * about["shots"], about["ways"] * about["queries"])
        return tuple(about["image"]), about["ways"], images, about["inner_steps"]

    def _each(self, encoding: str) -> Cost:
        image, ways, images, steps = self._shape()
        return adaptation_cost(self.space, encoding, image, ways, images, steps)

    def _once(self, encoding: str) -> Cost:
        """Return the cost of training."""
        about, row = self.table.about, self.table.row(encoding)
        flops = float(self.table.costs["training_flops"][row])
        return Cost(about["training_adaptations"], about["training_gradients"], flops)

    def regret(self, encoding: str) -> float:
        """Return how far a net's test accuracy is below the best net's, in points, over all seeds and tasks of the table."""
        test = self.table.accuracies(TEST)
        return float(test.max() - test[self.table.row(encoding)])


class SupernetFitness(_OnTasks):
    """Adapts a net from shared weights.

    Args:
        problem: of any net of the space, whose tasks judge.
        weights: shared, by name.
        seed: draws the tasks.
        tasks: how many.
    """

    def __init__(self, problem: FewShot, weights: Tree, seed: int, tasks: int) -> None:
        self.problem, self.tasks, self._weights = problem, tasks, weights
        self._supernet: Supernet = problem.supernet()
        self._first = first_task(seed, tasks)
        self._known: dict[tuple[str, int], float] = {}

    def __call__(self, encoding: str, tasks: int) -> float:
        """Return the accuracy (%) on the first `tasks` tasks; what several searches ask for is computed once, and paid by each."""
        asked = encoding, tasks
        if asked not in self._known:
            net = self.problem.subnet(encoding)
            self._known[asked] = net.validation_accuracy(self.weights_of(encoding), tasks, self._first)
        return self._known[asked]

    def weights_of(self, encoding: str) -> Tree:
        """Return the weights that a net adapts from; raise Diverged where they are trained and training does."""
        return self._supernet.cut(self._weights, encoding)

    def _each(self, encoding: str) -> Cost:
        shape = self.problem.tasks.shape
        images = (shape.ways * shape.shots, shape.ways * shape.queries)
        return cost_of_task(self.problem, self._supernet.space, encoding, images)


class TrainFitness(SupernetFitness):
    """Trains a net from nothing, then judges it.

    Args:
        problem: of any net of the space, whose tasks judge.
        seed: draws the tasks.
        tasks: how many.
        training: over all training classes, or outer steps of MAML.
        trained: what was trained: a net of several searches is trained once, and every one of them pays for it.
    """

    def __init__(
        self, problem: FewShot, seed: int, tasks: int, training: Joint | int, trained: dict[str, Tree] | None = None
    ) -> None:
        super().__init__(problem, {}, seed, tasks)
        self._training = training
        self._trained = {} if trained is None else trained
        self._flops: dict[str, float] = {}

    def weights_of(self, encoding: str) -> Tree:
        """Return the weights that a net adapts from, trained once."""
        if encoding not in self._trained:
            net = self.problem.subnet(encoding)
            joint = isinstance(self._training, Joint)
            self._trained[encoding] = (
                jointly_trained(net, self._training) if joint else meta_trained(net, self._training)
            )
        return self._trained[encoding]

    def _once(self, encoding: str) -> Cost:
        """Return the cost of training."""
        training, net = self._training, self.problem.subnet(encoding)
        if encoding not in self._flops:
            joint = isinstance(training, Joint)
            self._flops[encoding] = of_joint_training(net, training) if joint else of_training(net, training)
        if isinstance(training, Joint):
            return Cost(0, training.steps, self._flops[encoding])
        windows = training * self.problem.setting.options.tasks
        return Cost(windows, windows * (self.problem.setting.inner_steps + 1), self._flops[encoding])


def cost_of_task(problem: FewShot, space: Space, net: str, images: tuple[int, int]) -> Cost:
    """Return what a task of a problem costs, as `adaptation_cost`."""
    setting, tasks = problem.setting, problem.tasks
    head = setting.options.adaptation == HEAD
    return adaptation_cost(space, net, tasks.image, tasks.shape.ways, images, setting.inner_steps, head=head)


def first_task(seed: int, tasks: int) -> int:
    """Return the number of the first validation task of a search: searches of other seeds see others."""
    return stream_seed(seed, "validation tasks") % (_FURTHEST // max(1, tasks)) * tasks
