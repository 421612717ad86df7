"""Searches for architectures at an equal budget: on weights that the method meta-trained, on a table, or on nets trained one by one."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metabench.core import Tree
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.randomness import stream_seed
from metabench.data import datasets, load
from metabench.data.formats.net_table import TEST, VALIDATION, NetTable
from metabench.models.bounded_space import bounded
from metabench.models.search_space import Space
from metabench.models.spaces import space
from metabench.problems.few_shot import FewShot
from metabench.results import net_tables
from metabench.results import searches as names
from metabench.search.agreement import agreement
from metabench.search.driver import Fitness
from metabench.search.fitness import SUPERNET, TABLE, TRAIN, SupernetFitness, TableFitness, TrainFitness
from metabench.search.islands import Ring, Round
from metabench.search.new_task import OwnSearches
from metabench.search.predictors import predictor
from metabench.search.shared_weights import JOINT, Shared, SharedTrainer, SharedTraining, identity_of, read, save
from metabench.search.study import Entrant, Outcome, paired, searched
from metabench.stages.subject import Row, Subject
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


def search(subject: Subject) -> Iterator[Row]:
    """Yield what each strategy of `kind_options.strategies` chose, and what it paid, as means over `searches` searches.

    Nets are chosen on validation tasks, and judged once on test tasks. Searches of one number see the same tasks, whatever the strategy.

    Raises:
        MetabenchError: the problem is not `few_shot` with the size 'subnet'; there is no table of its space; or as `searched`.
        Diverged: training the shared weights does.
    """
    options, judge = subject.kind_options, _judge(subject)
    problem, of = judge.problem, judge.space
    if options.fitness == SUPERNET:
        judge.train()
        yield {"train_s": judge.shared.seconds, "meta_summary": judge.summary()}
    found: dict[str, list[Outcome]] = {}
    entrants = [Entrant.read(one) for one in options.strategies.split(",")]
    with tempfile.TemporaryDirectory() as own:
        for number in range(options.searches):
            for one in entrants:
                subject.tell(one.name, number, options.searches)
                if options.islands == 1:
                    seed, fitness = stream_seed(subject.seed, f"search {number}"), judge.fitness(number)
                    outcome = searched(one, of, options.budget, seed, fitness, judge.test)
                else:
                    outcome = _of_islands(judge, one, number, Path(own))
                found.setdefault(one.name, []).append(outcome)
    summary = judge.summary()
    summary |= judge.new_tasks(
        max((one for mine in found.values() for one in mine), key=lambda one: one.validation).chosen
    )
    curves: dict[str, Curve] = {}
    for name, mine in found.items():
        summary |= judge.numbers(name, mine, found.get(names.RANDOM, ()))
        curves[names.of(name, names.BEST)] = _best_so_far(mine, options.budget)
    if (steps := judge.steps()) is not None:
        curves[names.STEPS] = steps
    summary |= judge.by_hand(of.largest())
    quality = summary[names.of(entrants[0].name, names.TEST)]
    yield {
        "curves": curves,
        "meta_summary": summary,
        "metrics": {problem.card.metrics[0].name: quality},
        "quality": quality,
    }


def prepare(subject: Subject, part: str) -> None:
    """Compute a part that a cell needs, into its folder: shared weights, or a round of an island for all entrants and searches.

    Raises:
        MetabenchError: as `search`.
        Diverged: training the shared weights does.
    """
    options, judge = subject.kind_options, _judge(subject)
    if options.fitness == SUPERNET:
        judge.train()
    if part == names.SHARED_PART:
        return
    island, number = names.island_and_round(part)
    for place in range(options.searches):
        for text in options.strategies.split(","):
            ring, fitness = _ring(judge, Entrant.read(text), place), judge.fitness(place)
            subject.tell(f"{ring.entrant.name}, {part}", place, options.searches)
            ring.run(ring.round(island, number), fitness, _folders(subject, ring, place, None))


def _judge(subject: Subject) -> _Judge:
    problem = subject.problem
    if not isinstance(problem, FewShot) or problem.setting.size != "subnet":
        raise MetabenchError(
            "kind 'search' needs the problem few_shot with the size 'subnet': its option `space` is searched"
        )
    of, most = space(problem.setting.options.space), 1e6 * subject.kind_options.mega_flops
    table = _table(of)
    return _Judge(
        subject, problem, bounded(of, most, problem.tasks.image, problem.setting.options.ways) if most else of, table
    )


def _ring(judge: _Judge, entrant: Entrant, number: int) -> Ring:
    options, seed = judge.subject.kind_options, stream_seed(judge.subject.seed, f"search {number}")
    judged = [options.fitness, options.tasks, options.way, judge.subject.method.name, judge.subject.seed, number]
    return Ring(entrant, judge.space, options.budget, seed, options.islands, options.rounds, " ".join(map(str, judged)))


def _folders(subject: Subject, ring: Ring, number: int, own: Path | None) -> Callable[[Round], Path]:
    """Return where the files of a ring's rounds are: in the folders of the parts that were prepared; `own` where none is."""
    name = f"{ring.entrant.strategy}-{ring.entrant.predictor or 'alone'}-{number}"

    def folder_of(one: Round) -> Path:
        prepared = subject.prepared.get(names.round_part(one.island, one.number))
        at = own / name if own and (prepared is None or not one.file(prepared / name).is_file()) else prepared / name  # type: ignore[operator]
        at.mkdir(parents=True, exist_ok=True)
        return at

    return folder_of


def _of_islands(judge: _Judge, entrant: Entrant, number: int, own: Path) -> Outcome:
    """Return the outcome of a search on islands; rounds that were not prepared are run here."""
    ring, fitness = _ring(judge, entrant, number), judge.fitness(number)
    folder_of = _folders(judge.subject, ring, number, own)
    for at in range(ring.rounds):
        for island in range(ring.islands):
            one = ring.round(island, at)
            if not one.file(folder_of(one)).is_file():
                ring.run(one, fitness, folder_of)
    return ring.outcome(fitness, judge.test, folder_of)


def _table(of: Space) -> NetTable | None:
    """Return the table that ships, if it is of a space."""
    if net_tables.SHIPPED_TABLE not in datasets():
        return None
    found: NetTable = load(net_tables.SHIPPED_TABLE)
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
    shared: Shared = field(default_factory=lambda: Shared({}, {}))

    def __post_init__(self) -> None:
        if self.subject.kind_options.fitness == TABLE and self.table is None:
            raise MetabenchError(
                f"there is no table of the space '{self.space.name}': ask for `fitness: supernet` or `train`"
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
        folder, identity = subject.prepared.get(names.SHARED_PART), identity_of(self.problem, training, _said(subject))
        last = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            last = read(folder / names.SHARED_FILE, identity)
        before = training.done(last) if last else 0
        for shared in SharedTrainer(self.problem, training, answers).run(last):
            done = training.done(shared)
            subject.tell(names.TRAINING, done, total)
            if folder is not None and done > before and (done % _SAVED == 0 or done == total):
                save(folder / names.SHARED_FILE, shared, identity)
        self.weights, self.shared = shared.weights, shared

    def _fitness(self, number: int) -> Fitness:
        """Return the fitness of the searches of a number: one for all strategies, each of which pays for what it asks."""
        options, seed = self.subject.kind_options, stream_seed(self.subject.seed, f"tasks {number}")
        if options.fitness == TABLE:
            assert self.table is not None
            return TableFitness(self.table, self.space, seed, options.tasks, self.subject.seed + number)
        if options.fitness == SUPERNET:
            assert self.weights is not None
            return SupernetFitness(self.problem, self.weights, seed, options.tasks)
        training = Joint(options.net_steps) if options.net_way == JOINT else options.net_steps
        return TrainFitness(self.problem, seed, options.tasks, training, self.trained)

    def _test(self, net: str) -> float:
        """Return the accuracy (%) of a net on test tasks."""
        options = self.subject.kind_options
        if options.fitness == TABLE:
            assert self.table is not None
            return float(self.table.accuracies(TEST)[self.table.row(net)])
        fitness = self.fitness(0)
        assert isinstance(fitness, SupernetFitness)
        return float(self.problem.subnet(net).test_accuracies(fitness.weights_of(net)).mean())

    def numbers(self, name: str, mine: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, float]:
        """Return an entrant's numbers, means over its searches, and its differences to random search, search by search.

        Args:
            name: of the entrant.
            mine: its searches.
            theirs: those of random search; none where it is no entrant.
        """
        last = [one.lines[-1].cost for one in mine]
        compared = self._compared(mine)
        found = compared | {
            names.PARAMETERS: [self._parameters(one.chosen) for one in mine],
            names.ADAPTATIONS: [cost.adaptations for cost in last],
            names.GRADIENTS: [cost.gradients for cost in last],
            names.FLOPS: [cost.flops for cost in last],
        }
        said = {key: float(np.mean(values)) for key, values in found.items()}
        if name != names.RANDOM and len(theirs) >= names.FEWEST_PAIRS:
            for key, others in self._compared(theirs).items():
                away = paired(compared[key], others)
                values = (away.mean, away.half, away.wins, away.losses)
                said |= {kept: float(value) for kept, value in zip(names.above(key), values, strict=True)}
        return {names.of(name, key): value for key, value in said.items()}

    def _compared(self, outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
        """Return the numbers of searches that are compared with others."""
        found = {
            names.VALIDATION: [one.validation for one in outcomes],
            names.TEST: [one.test for one in outcomes],
        }
        return found | (
            {names.REGRET: [self._regret(one.chosen) for one in outcomes]} if self.table is not None else {}
        )

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
        best = max(test[self.table.row(one)] for one in self.space.all())
        return float(best - test[self.table.row(net)])

    @functools.cached_property
    def _rankings(self) -> dict[str, float]:
        """How well nets are ranked as by their test accuracies in the table, by shared weights and by what costs less, and the ceilings."""
        table = self.table
        options = self.subject.kind_options
        left_out = not options.ranking or options.fitness == TRAIN or options.mega_flops
        if table is None or left_out or self.space.size > _RANKED:
            return {}
        self.subject.tell("ranking of all nets")
        test, validation = table.accuracies(TEST), table.accuracies(VALIDATION)
        scores: dict[str, tuple[Any, Any]] = {}
        if self.weights is not None:
            judged = self.fitness(0)
            scores[names.SHARED] = (np.array([judged(net, judged.tasks) for net in table.nets]), test)
        scores[names.FITTED.format(count=_FITTED)] = (self._fitted(table), test)
        scores[names.BY_PARAMETERS] = (table.costs["parameters"], test)
        scores[names.BY_FLOPS] = (table.costs["flops"], test)
        if len(table.seeds) > 1:
            first, rest = (table.accuracies(TEST, seeds=seeds) for seeds in (table.seeds[:1], table.seeds[1:]))
            scores[names.CEILING] = (first, rest)
        scores[names.BEYOND] = (validation, test)
        count = len(table.pixels[TEST])
        one, other = (table.accuracies(TEST, tasks=range(start, count, 2)) for start in range(2))
        scores[names.HALVES] = (one, other)
        found: dict[str, float] = {}
        for name, (values, truth) in scores.items():
            found |= _ranked(name, values, truth)
        return found

    def _fitted(self, table: NetTable) -> np.ndarray:
        """Return what a ridge expects of every net that was fitted to a few, with one seed of training and validation tasks."""
        drawn = self.space.drawn(self.subject.seed, "nets of the ridge")
        known = [table.row(next(drawn)) for _ in range(min(_FITTED, len(table.nets)))]
        seed = table.seeds[self.subject.seed % len(table.seeds)]
        features, found = self.space.one_hot(table.nets), table.accuracies(VALIDATION, seeds=[seed])
        expected: np.ndarray = predictor("ridge", 0).fit(features[known], found[known]).predict(features)
        return expected

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
        away = paired(found.own.tolist(), found.average.tolist())
        said = {
            names.OWN: found.own.mean(),
            names.AVERAGE: found.average.mean(),
            names.OWN_LOW: away.mean - away.half,
            names.OWN_HIGH: away.mean + away.half,
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


def _said(subject: Subject) -> str:
    """Return the method with its options, as the file of shared weights names it."""
    return f"{subject.method.name} {subject.options}"


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
