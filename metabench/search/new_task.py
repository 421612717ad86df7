"""A new task's own architecture: a short search on the task's support alone, before the net that it chooses adapts to the whole support.

A net is judged by cross-validation: it adapts to one half of the support's images and answers the other, then the other way round. Beside
it stands the net that was best on average over validation tasks: choosing per task has to beat that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metabench.core import Tree
from metabench.core.randomness import stream_seed
from metabench.models.search_space import Space
from metabench.problems.few_shot import FewShot
from metabench.search.driver import Cost
from metabench.search.fitness import cost_of_task
from metabench.search.study import Entrant, searched
from metabench.tasks.images import TEST

FOLDS = 2


@dataclass(frozen=True)
class NewTasks:
    """What searches of their own came to on new tasks.

    Attributes:
        own: accuracy on the queries of each task of the net that its own search chose (%), shape [tasks].
        average: of the net that is best on average (%), shape [tasks].
        chosen: the net of each task.
        adaptations: inner runs of a task's search, the mean.
    """

    own: np.ndarray
    average: np.ndarray
    chosen: tuple[str, ...]
    adaptations: float


class OwnSearches:
    """The searches of some test tasks, one each.

    Every task pays for what it looks at; a net that any of them asks for is computed for all at once.

    Args:
        problem: of any net of the space.
        weights_of: from a net to the weights that it adapts from.
        tasks: how many.

    Raises:
        MetabenchError: the tasks have one image a class, which cannot be divided.
    """

    def __init__(self, problem: FewShot, weights_of: Callable[[str], Tree], tasks: int) -> None:
        problem.check_halves()
        self.problem, self.tasks, self._weights_of = problem, tasks, weights_of
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def accuracies(self, net: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the accuracy (%) of a net on each task, by cross-validation of the support and on the queries, shape [tasks] each."""
        if net not in self._known:
            found = self.problem.subnet(net).halved_answers(self._weights_of(net), TEST, self.tasks)
            self._known[net] = (found[0].numpy(), found[1].numpy())
        return self._known[net]

    def run(self, entrant: Entrant, space: Space, budget: int, seed: int, average: str) -> NewTasks:
        """Search for every task, with the same random numbers: what differs between two tasks is their fitness.

        Random search therefore looks at the same nets for all tasks, of which a row says what a choice is worth; other seeds see others.

        Args:
            entrant: the strategy.
            space: of the nets.
            budget: nets that a task may look at.
            seed: of the searches.
            average: the net that is best on average.
        """
        outcomes = [
            searched(
                entrant,
                space,
                budget,
                stream_seed(seed, "new tasks"),
                _OfTask(self, space, task),
                lambda net, task=task: float(self.accuracies(net)[1][task]),  # type: ignore[misc]
            )
            for task in range(self.tasks)
        ]
        return NewTasks(
            np.array([one.test for one in outcomes]),
            self.accuracies(average)[1],
            tuple(one.chosen for one in outcomes),
            float(np.mean([one.lines[-1].cost.adaptations for one in outcomes])),
        )


class _OfTask:
    """The fitness of nets on one new task."""

    tasks = 1

    def __init__(self, searches: OwnSearches, space: Space, task: int) -> None:
        self._searches, self._space, self._task = searches, space, task

    def __call__(self, encoding: str, tasks: int) -> float:
        return float(self._searches.accuracies(encoding)[0][self._task])

    def cost(self, encoding: str, tasks: int) -> Cost:
        shape = self._searches.problem.tasks.shape
        half = shape.ways * shape.shots // FOLDS
        each = cost_of_task(self._searches.problem, self._space, encoding, (half, half))
        return Cost(FOLDS * each.adaptations, FOLDS * each.gradients, FOLDS * each.flops)
