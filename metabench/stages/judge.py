"""What judges nets in a search: shared weights, a table or training, and the numbers that are kept of what was chosen."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metabench.core import Tree
from metabench.core.curves import Curve
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.randomness import stream_seed
from metabench.data.formats.net_table import TEST, NetTable
from metabench.models.search_space import Space
from metabench.problems.few_shot import FewShot
from metabench.results import searches as names
from metabench.search.agreement import agreement, by_ridge, of_itself
from metabench.search.driver import Fitness
from metabench.search.fitness import SupernetFitness, TableFitness, TrainFitness
from metabench.search.new_task import OwnSearches
from metabench.search.shared_weights import Shared, SharedTrainer, SharedTraining, identity_of, read, save
from metabench.search.stored import shipped, unlike
from metabench.search.study import Entrant, Outcome, paired
from metabench.stages.subject import Subject
from metabench.tasks.joint import Joint
from metabench.tasks.trained import Answer

_RANKED = 200
"""Nets of a space, at most, that shared weights rank as a whole."""
_FITTED = 40
"""Nets of the table to which a ridge is fitted, as a baseline of shared weights."""
_CURVE = (5, 60)
"""Nets and test tasks of the curve over steps of adaptation."""
_FURTHEST = 3
"""How many times as many steps as in training that curve follows."""
_SAVED = 10
"""Steps of training shared weights from one writing of their file to the next."""


@dataclass
class Judge:
    """What nets are judged by in one cell and seed.

    Attributes:
        subject: of the cell.
        problem: of any net of the space.
        space: of the nets that may be chosen.
        table: of the same nets and tasks; None where none ships.
        weights: shared, once they are trained.
        trained: the weights of nets that were trained one by one.
        shared: what training the shared weights came to.

    Raises:
        MetabenchError: nets are to be looked up in a table, and that which ships is of other nets, tasks or adaptation.
    """

    subject: Subject
    problem: FewShot
    space: Space
    table: NetTable | None = None
    weights: Tree | None = None
    trained: dict[str, Tree] = field(default_factory=dict)
    shared: Shared = field(default_factory=lambda: Shared({}, {}))

    def __post_init__(self) -> None:
        stored, looked_up = shipped(), self.subject.kind_options.fitness == names.TABLE
        other = "left out" if stored is None else unlike(stored, self.problem, self.subject.dataset, adapting=looked_up)
        if not other:
            self.table = stored
        elif looked_up:
            raise MetabenchError(
                f"there is no table of these nets and tasks: that which ships is {'' if stored is None else 'of '}{other}; ask for "
                "`fitness: supernet` or `train`"
            )
        self.test, self.fitness = functools.cache(self._test), functools.cache(self._fitness)

    def train(self) -> None:
        """Train the shared weights by the method, or read those that were prepared; a run that was killed goes on."""
        options, subject = self.subject.kind_options, self.subject

        def answers(number: int) -> Answer:
            stream = subject.stream(f"shared weights {number}")
            return lambda problem, state, meta, window: subject.hypergradient(problem, state, meta, window, stream)

        training = SharedTraining(
            way=options.way,
            outer_steps=max(1, subject.outer_steps),
            outer_learning_rate=self.problem.setting.options.outer_learning_rate,
            joint=Joint(options.joint_steps, batch=64, learning_rate=0.01),
        )
        total = sum(steps for _, steps in training.phases)
        folder = subject.prepared.get(names.SHARED_PART)
        identity = identity_of(self.problem, subject.dataset, training, f"{subject.method.name} {subject.options}")
        last = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            last = read(folder / names.SHARED_FILE, identity, self.problem.setting.device)
        before = training.done(last) if last else 0
        for shared in SharedTrainer(self.problem, training, answers).run(last):
            done = training.done(shared)
            subject.tell(names.TRAINING, done, total)
            if folder is not None and done > before and (done % _SAVED == 0 or done == total):
                save(folder / names.SHARED_FILE, shared, identity, finished=done == total)
        self.weights, self.shared = shared.weights, shared

    def _fitness(self, number: int) -> Fitness:
        """Return the fitness of the searches of a number: one for all strategies, each of which pays for what it asks."""
        options, seed = self.subject.kind_options, stream_seed(self.subject.seed, f"tasks {number}")
        if options.fitness == names.TABLE:
            assert self.table is not None
            return TableFitness(self.table, self.space, seed, options.tasks, self.subject.seed + number)
        if options.fitness == names.SUPERNET:
            assert self.weights is not None
            return SupernetFitness(self.problem, self.weights, seed, options.tasks)
        training = Joint(options.net_steps) if options.net_way == names.JOINT else options.net_steps
        return TrainFitness(self.problem, seed, options.tasks, training, self.trained)

    def _test(self, net: str) -> float:
        """Return the accuracy (%) of a net on test tasks."""
        options = self.subject.kind_options
        if options.fitness == names.TABLE:
            assert self.table is not None
            return float(self.table.accuracies(TEST)[self.table.row(net)])
        fitness = self.fitness(0)
        assert isinstance(fitness, SupernetFitness)
        return float(self.problem.subnet(net).test_accuracies(fitness.weights_of(net)).mean())

    def numbers(self, name: str, mine: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, float]:
        """Return an entrant's numbers, means over its searches.

        With them, search by search, its differences to random search and to the largest net, for which nothing is searched.

        Args:
            name: of the entrant.
            mine: its searches.
            theirs: those of random search; none where it is no entrant.
        """
        last = [one.lines[-1].cost for one in mine]
        compared = self._compared([one.chosen for one in mine])
        compared[names.VALIDATION] = [one.validation for one in mine]
        found = compared | {
            names.PARAMETERS: [self._parameters(one.chosen) for one in mine],
            names.ADAPTATIONS: [cost.adaptations for cost in last],
            names.GRADIENTS: [cost.gradients for cost in last],
            names.FLOPS: [cost.flops for cost in last],
        }
        said = {key: float(np.mean(values)) for key, values in found.items()}
        baselines = {names.BY_HAND: {key: [value] * len(mine) for key, value in self._largest.items()}}
        if name != names.RANDOM and theirs:
            baselines[names.RANDOM] = self._compared([one.chosen for one in theirs])
            baselines[names.RANDOM][names.VALIDATION] = [one.validation for one in theirs]
        for other, values in baselines.items() if len(mine) >= names.FEWEST_PAIRS else ():
            for key in (one for one in compared if one in values):
                away = paired(compared[key], values[key])
                kept = (away.mean, away.half, away.wins, away.losses)
                said |= dict(zip(names.above(key, other), map(float, kept), strict=True))
        return {names.of(name, key): value for key, value in said.items()}

    def _compared(self, nets: Sequence[str]) -> dict[str, list[float]]:
        """Return what nets are worth on test tasks, and in a table."""
        found = {names.TEST: [self.test(net) for net in nets]}
        return found | ({names.REGRET: [self._regret(net) for net in nets]} if self.table is not None else {})

    @functools.cached_property
    def _largest(self) -> dict[str, float]:
        """What the largest net is worth, for which nothing is searched; empty where it diverges."""
        try:
            return {key: values[0] for key, values in self._compared([self.space.largest()]).items()}
        except Diverged:
            return {}

    def by_hand(self) -> dict[str, float]:
        """Return the numbers of the largest net; none where it diverges."""
        if not self._largest:
            return {}
        found = self._largest | {names.PARAMETERS: self._parameters(self.space.largest())}
        return {names.of(names.BY_HAND, key): value for key, value in found.items()}

    def _parameters(self, net: str) -> float:
        return float(self.space.parameters(net, self.problem.tasks.image, self.problem.setting.options.ways))

    def _regret(self, net: str) -> float:
        assert self.table is not None
        test = self.table.accuracies(TEST)
        best = max(test[self.table.row(one)] for one in self.space.all())
        return float(best - test[self.table.row(net)])

    @functools.cached_property
    def _rankings(self) -> dict[str, float]:
        """How well nets are ranked as in the table, on test tasks: by shared weights, by what costs less, and by the table itself."""
        table, options = self.table, self.subject.kind_options
        left_out = not options.ranking or options.fitness == names.TRAIN or options.mega_flops
        if table is None or left_out or self.space.size > _RANKED:
            return {}
        self.subject.tell("ranking of all nets")
        found = [by_ridge(table, self.space, self.subject.seed, _FITTED), *of_itself(table)]
        if self.weights is not None:
            judged = self.fitness(0)
            scores = np.array([judged(net, judged.tasks) for net in table.nets])
            found.insert(0, agreement(names.SHARED, scores, table.accuracies(TEST)))
        return {name: value for one in found for name, value in one.named().items()}

    def steps(self) -> Curve | None:
        """Return the accuracy from shared weights against the steps of adaptation, on test tasks; the nets are the same for every way."""
        if self.weights is None:
            return None
        fitness = self.fitness(0)
        assert isinstance(fitness, SupernetFitness)
        self.subject.tell("accuracy against steps")
        most, drawn = _FURTHEST * self.problem.setting.inner_steps, self.space.drawn(0, "nets of the curve")
        right = [
            self.problem.percent(
                self.problem.subnet(net).answers(fitness.weights_of(net), TEST, _CURVE[1], range(most + 1)).together
            ).mean(1)
            for net, _ in zip(drawn, range(_CURVE[0]), strict=False)
        ]
        values = np.array([one.numpy() for one in right])
        low, high = values.min(0).tolist(), values.max(0).tolist()
        return Curve([*range(most + 1)], values.mean(0).tolist(), "%", "steps of adaptation", low, high, len(values))

    def new_tasks(self, average: str) -> dict[str, float]:
        """Return what searches of new tasks' own came to, beside the net that is best on average."""
        options = self.subject.kind_options
        if not options.new_tasks:
            return {}
        fitness = self.fitness(0)
        assert isinstance(fitness, SupernetFitness)
        self.subject.tell("searches of new tasks' own")
        searches = OwnSearches(self.problem, fitness.weights_of, options.new_tasks)
        found = searches.run(Entrant("random"), self.space, options.new_budget, self.subject.seed, average)
        said = {
            names.OWN: found.own.mean(),
            names.AVERAGE: found.average.mean(),
            names.ADAPTATIONS: found.adaptations,
        }
        return {names.of(names.NEW_TASKS, name): float(value) for name, value in said.items()}

    def summary(self) -> dict[str, float]:
        """Return what training the shared weights cost, and how they rank; of a table, how far its rankings agree."""
        if self.weights is None:
            return self._rankings
        shared = self.shared
        costs = {names.ADAPTATIONS: shared.adaptations, names.GRADIENTS: shared.gradients, names.FLOPS: shared.flops}
        return {names.of(names.TRAINING, name): float(value) for name, value in costs.items()} | self._rankings
