"""Searches for architectures at an equal budget: on weights that the method meta-trained, on a table, or on nets trained one by one."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import metabench.search.strategies  # noqa: F401 - rows depend on all of them: the code hash follows imports
from metabench.core import Tree
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.problem import Problem
from metabench.core.randomness import stream_seed
from metabench.core.types import InnerState, Window
from metabench.data import datasets, load
from metabench.data.formats.net_table import TEST, NetTable
from metabench.models.search_space import Space, space
from metabench.problems.few_shot import FewShot
from metabench.results import searches as names
from metabench.search.agreement import agreement
from metabench.search.driver import Cost, Fitness
from metabench.search.fitness import SUPERNET, TABLE, SupernetFitness, TableFitness, TrainFitness
from metabench.search.shared_weights import SharedTrainer, SharedTraining
from metabench.search.study import Entrant, Outcome, searched
from metabench.stages.subject import Row, Subject

SHIPPED_TABLE = "few_shot_table"
_RANKED = 200
"""Nets of a space, at most, that shared weights rank as a whole."""


def search(subject: Subject) -> Iterator[Row]:
    """Yield what each strategy of `kind_options.strategies` chose, and what it paid, as means over `searches` searches.

    Nets are chosen on validation tasks, and judged once on test tasks. Searches of one number see the same tasks, whatever the strategy.

    Raises:
        MetabenchError: the problem is not `few_shot` with the size 'subnet'; there is no table of its space; or as `searched`.
        Diverged: training the shared weights does.
    """
    options, problem = subject.kind_options, subject.problem
    if not isinstance(problem, FewShot) or problem.setting.size != "subnet":
        raise MetabenchError(
            "kind 'search' needs the problem few_shot with the size 'subnet': its option `space` is searched"
        )
    of = space(problem.setting.options.space)
    table = _table(of)
    judge = _Judge(subject, problem, of, table)
    if options.fitness == SUPERNET:
        judge.train()
        yield {"train_s": judge.seconds, "meta_summary": judge.summary()}
    found: dict[str, list[Outcome]] = {}
    entrants = [Entrant.read(one) for one in options.strategies.split(",")]
    for number in range(options.searches):
        for one in entrants:
            subject.tell(one.name, number, options.searches)
            seed = stream_seed(subject.seed, f"search {number}")
            found.setdefault(one.name, []).append(
                searched(one, of, options.budget, seed, judge.fitness(number), judge.test)
            )
    summary = judge.summary()
    curves: dict[str, Curve] = {}
    for name, mine in found.items():
        summary |= judge.numbers(name, mine)
        curves[names.of(name, names.BEST)] = _best_so_far(mine, options.budget)
    by_hand = max(of.all(), key=lambda net: of.parameters(net, problem.tasks.image, problem.setting.options.ways))
    summary |= judge.by_hand(by_hand)
    quality = summary[names.of(entrants[0].name, names.TEST)]
    yield {
        "curves": curves,
        "meta_summary": summary,
        "metrics": {problem.card.metrics[0].name: quality},
        "quality": quality,
    }


def _table(of: Space) -> NetTable | None:
    """Return the table that ships, if it is of a space."""
    if SHIPPED_TABLE not in datasets():
        return None
    found: NetTable = load(SHIPPED_TABLE)
    return found if found.about["space"] == of.name else None


@dataclass
class _Judge:
    """What nets are judged by in one cell and seed."""

    subject: Subject
    problem: FewShot
    space: Space
    table: NetTable | None
    weights: Tree | None = None
    trained: dict[str, Tree] = field(default_factory=dict)
    seconds: float = 0.0
    paid: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if self.subject.kind_options.fitness == TABLE and self.table is None:
            raise MetabenchError(
                f"there is no table of the space '{self.space.name}': ask for `fitness: supernet` or `train`"
            )
        self.test = functools.cache(self._test)

    def train(self) -> None:
        """Train the shared weights by the method."""
        options, subject = self.subject.kind_options, self.subject
        stream = subject.stream("shared weights")

        def answer(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Any:
            return subject.hypergradient(problem, state, meta, window, stream)

        training = SharedTraining(
            way=options.way,
            outer_steps=max(1, subject.outer_steps),
            outer_learning_rate=self.problem.setting.options.outer_learning_rate,
            joint_steps=options.joint_steps,
        )
        began, total = time.perf_counter(), sum(steps for _, steps in training.phases)
        for shared in SharedTrainer(self.problem, training, answer).run():
            done = sum(steps for _, steps in training.phases[: shared.phase]) + shared.step
            subject.tell(names.TRAINING, done, total)
        self.weights, self.seconds = shared.weights, time.perf_counter() - began
        self.paid = Cost(shared.adaptations, shared.gradients)

    def fitness(self, number: int) -> Fitness:
        """Return the fitness of the searches of a number."""
        options, seed = self.subject.kind_options, stream_seed(self.subject.seed, f"tasks {number}")
        if options.fitness == TABLE:
            assert self.table is not None
            return TableFitness(self.table, self.space, seed, options.tasks, self.subject.seed + number)
        if options.fitness == SUPERNET:
            assert self.weights is not None
            return SupernetFitness(self.problem, self.weights, seed, options.tasks)
        return TrainFitness(self.problem, seed, options.tasks, options.net_steps, self.trained)

    def _test(self, net: str) -> float:
        """Return the accuracy (%) of a net on test tasks."""
        options = self.subject.kind_options
        if options.fitness == TABLE:
            assert self.table is not None
            return float(self.table.accuracies(TEST)[self.table.row(net)])
        fitness = self.fitness(0)
        assert isinstance(fitness, SupernetFitness)
        (_, after), _, _ = self.problem.subnet(net).tested(fitness.weights_of(net))
        return float(after.mean())

    def numbers(self, name: str, mine: Sequence[Outcome]) -> dict[str, float]:
        """Return an entrant's numbers, means over its searches."""
        last = [one.lines[-1].cost for one in mine]
        found = {
            names.VALIDATION: [one.validation for one in mine],
            names.TEST: [one.test for one in mine],
            names.PARAMETERS: [self._parameters(one.chosen) for one in mine],
            names.ADAPTATIONS: [cost.adaptations for cost in last],
            names.GRADIENTS: [cost.gradients for cost in last],
            names.FLOPS: [cost.flops for cost in last],
        }
        if self.table is not None:
            found[names.REGRET] = [self._regret(one.chosen) for one in mine]
        return {names.of(name, key): float(np.mean(values)) for key, values in found.items()}

    def by_hand(self, net: str) -> dict[str, float]:
        """Return the numbers of a net for which nothing is searched."""
        found = {names.TEST: self.test(net), names.PARAMETERS: self._parameters(net)}
        found |= {names.REGRET: self._regret(net)} if self.table is not None else {}
        return {names.of(names.BY_HAND, key): value for key, value in found.items()}

    def _parameters(self, net: str) -> float:
        return float(self.space.parameters(net, self.problem.tasks.image, self.problem.setting.options.ways))

    def _regret(self, net: str) -> float:
        assert self.table is not None
        test = self.table.accuracies(TEST)
        return float(test.max() - test[self.table.row(net)])

    @functools.cached_property
    def _rankings(self) -> dict[str, float]:
        """How well shared weights rank all nets by their test accuracies in the table; beside it what costs nothing, and the ceiling."""
        table = self.table
        if table is None or self.weights is None or self.space.size > _RANKED:
            return {}
        self.subject.tell("ranking of all nets")
        test, judged = table.accuracies(TEST), self.fitness(0)
        scores: dict[str, Any] = {
            names.SHARED: np.array([judged(net, judged.tasks) for net in table.nets]),
            names.BY_PARAMETERS: table.costs["parameters"],
        }
        found = {}
        for name, values in scores.items():
            found |= _ranked(name, values, test)
        if len(table.seeds) > 1:
            first, rest = (table.accuracies(TEST, seeds=seeds) for seeds in (table.seeds[:1], table.seeds[1:]))
            found |= _ranked(names.CEILING, first, rest)
        return found

    def summary(self) -> dict[str, float]:
        """Return what training the shared weights cost, and how they rank."""
        if self.weights is None:
            return {}
        costs = {names.ADAPTATIONS: self.paid.adaptations, names.GRADIENTS: self.paid.gradients}
        return {names.of(names.TRAINING, name): float(value) for name, value in costs.items()} | self._rankings


def _ranked(name: str, found: Any, truth: Any) -> dict[str, float]:
    one = agreement(name, found, truth)
    values = {
        names.RANKING: one.kendall,
        names.RANKING_LOW: one.low,
        names.RANKING_HIGH: one.high,
        names.RANKING_BEST: one.best,
    }
    return {names.of(name, key): value for key, value in values.items()}


def _best_so_far(outcomes: Sequence[Outcome], budget: int) -> Curve:
    """Return the fitness of the best net so far against full evaluations paid for: the mean over searches, with quartiles."""
    at: Callable[[Outcome, int], float] = lambda one, spent: max(  # noqa: E731
        (line.fitness for line in one.lines if line.fitness is not None and line.spent <= spent + 1e-9), default=np.nan
    )
    values = np.array([[at(one, spent) for spent in range(1, budget + 1)] for one in outcomes])
    known = np.flatnonzero(~np.isnan(values).any(0))
    shown = values[:, known]
    low, high = (np.quantile(shown, q, axis=0).tolist() for q in (0.25, 0.75))
    return Curve((known + 1).tolist(), shown.mean(0).tolist(), "%", "evaluations", low, high, len(outcomes))
