"""Searches for architectures at an equal budget: on weights that the method meta-trained, on a table, or on nets trained one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.randomness import stream_seed
from metabench.models.bounded_space import bounded
from metabench.models.spaces import space
from metabench.problems.few_shot import FewShot
from metabench.results import searches as names
from metabench.search.islands import Ring, Round
from metabench.search.study import Entrant, Outcome, searched
from metabench.stages.judge import Judge
from metabench.stages.subject import Row, Subject


def search(subject: Subject) -> Iterator[Row]:
    """Yield what each strategy of `kind_options.strategies` chose, and what it paid, as means over `searches` searches.

    Nets are chosen on validation tasks, and judged once on test tasks. Searches of one number see the same tasks, whatever the strategy.

    Raises:
        MetabenchError: the problem is not `few_shot` with the size 'subnet'; there is no table of its nets and tasks; or as `searched`.
        Diverged: training the shared weights does.
    """
    options, judge = subject.kind_options, _judge(subject)
    problem, of = judge.problem, judge.space
    if options.fitness == names.SUPERNET:
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
        curves[names.of(name, names.BEST)] = _best_so_far(mine, options.budget, judge.fitness(0).tasks)
    if (steps := judge.steps()) is not None:
        curves[names.STEPS] = steps
    summary |= judge.by_hand()
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
    if options.fitness == names.SUPERNET:
        judge.train()
    if part == names.SHARED_PART:
        return
    island, number = names.island_and_round(part)
    for place in range(options.searches):
        for text in options.strategies.split(","):
            ring, fitness = _ring(judge, Entrant.read(text), place), judge.fitness(place)
            subject.tell(f"{ring.entrant.name}, {part}", place, options.searches)
            ring.run(ring.round(island, number), fitness, _folders(subject, ring, place, None))


def _judge(subject: Subject) -> Judge:
    problem = subject.problem
    if not isinstance(problem, FewShot) or problem.setting.size != "subnet":
        raise MetabenchError(
            "kind 'search' needs the problem few_shot with the size 'subnet': its option `space` is searched"
        )
    options = problem.setting.options
    of, most = space(options.space), 1e6 * subject.kind_options.mega_flops
    return Judge(subject, problem, bounded(of, most, problem.tasks.image, options.ways) if most else of)


def _ring(judge: Judge, entrant: Entrant, number: int) -> Ring:
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


def _of_islands(judge: Judge, entrant: Entrant, number: int, own: Path) -> Outcome:
    """Return the outcome of a search on islands; rounds that were not prepared are run here."""
    ring, fitness = _ring(judge, entrant, number), judge.fitness(number)
    folder_of = _folders(judge.subject, ring, number, own)
    for at in range(ring.rounds):
        for island in range(ring.islands):
            one = ring.round(island, at)
            if not one.file(folder_of(one)).is_file():
                ring.run(one, fitness, folder_of)
    return ring.outcome(fitness, judge.test, folder_of)


def _best_so_far(outcomes: Sequence[Outcome], budget: int, tasks: int) -> Curve:
    """Return the fitness of the best net so far against full evaluations paid for: the mean over searches, with quartiles.

    Args:
        outcomes: of the searches.
        budget: the last number of evaluations.
        tasks: of a full evaluation: a look at fewer does not say what is best.
    """

    def best(one: Outcome, spent: int) -> float:
        seen = (line for line in one.lines if line.tasks == tasks and line.spent <= spent + 1e-9)
        return max((line.fitness for line in seen if line.fitness is not None), default=np.nan)

    values = np.array([[best(one, spent) for spent in range(1, budget + 1)] for one in outcomes])
    known = np.flatnonzero(~np.isnan(values).any(0))
    shown = values[:, known]
    low, high = (np.quantile(shown, q, axis=0).tolist() for q in (0.25, 0.75))
    return Curve((known + 1).tolist(), shown.mean(0).tolist(), "%", "evaluations", low, high, len(outcomes))
