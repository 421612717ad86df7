"""Search for architectures by several strategies, on weights that the method meta-trained, on a table, or on nets trained one by one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core import option
from metabench.core.errors import MetabenchError, unknown
from metabench.core.kind import Kind, Part
from metabench.core.method import Method, Target
from metabench.core.problem import Problem
from metabench.data.registry import DATASETS
from metabench.results import searches as names
from metabench.results.net_tables import SHIPPED_TABLE
from metabench.stages.subject import Row, Subject
from metabench.stages.well_posed import SIZES, well_posed

_WITHOUT_METHOD = (names.JOINT, names.UNTRAINED)


def read_strategies(text: str) -> list[tuple[str, str]]:
    """Return strategies and predictors of 'random, evolution + ridge'; raise MetabenchError if one is unknown."""
    # Here and below: they import numpy, which the process that starts cells does without.
    from metabench.search.predictors import PREDICTORS
    from metabench.search.strategy import STRATEGIES

    found = []
    for one in str(text).split(","):
        strategy, _, predictor = (part.strip() for part in one.partition("+"))
        if strategy not in STRATEGIES:
            raise unknown("strategy", strategy, STRATEGIES)
        if predictor and predictor not in PREDICTORS:
            raise unknown("predictor", predictor, PREDICTORS)
        found.append((strategy, predictor))
    return found


def picked(text: str) -> list[tuple[Any, str]]:
    """Return the strategies of such a text with their registry: rows depend on their source."""
    from metabench.search.strategy import STRATEGIES

    return [(STRATEGIES, strategy) for strategy, _ in read_strategies(text)]


def tables(fitness: str) -> list[tuple[Any, str]]:
    """Return the table that ships: it gives regrets and rankings, whatever nets are judged by."""
    del fitness
    return [(DATASETS, SHIPPED_TABLE)] if SHIPPED_TABLE in DATASETS(()) else []


@dataclass(frozen=True)
class Options:
    """Options of the kind `search`."""

    strategies: str = option(
        "random, random + ridge, evolution, evolution + ridge",
        check=read_strategies,
        picks=picked,
        help="each with a predictor that screens, if one follows a plus; the first gives the row its quality",
    )
    fitness: str = option(
        "supernet",
        choices=names.FITNESSES,
        picks=tables,
        help="adapt shared weights; look nets up in the table; or train every net asked for",
    )
    budget: int = option(25, minimum=1, help="full evaluations of a search")
    tasks: int = option(100, minimum=0, help="validation tasks of a full evaluation; 0: all of a table")
    searches: int = option(1, minimum=1, help="searches of each strategy and seed, on other tasks each")
    way: str = option("meta", choices=names.WAYS, help="to shared weights; 'joint' and 'untrained' go with the method `none`")
    mega_flops: float = option(0.0, minimum=0, help="bound on those of a net that scores an image, in millions; 0: none")
    islands: int = option(
        1, minimum=1, help="searches side by side that share a budget, in a ring; each round of each is a job"
    )
    rounds: int = option(
        1, minimum=1, help="of every island; between two of them its best net moves on to the right neighbour"
    )
    ranking: bool = option(True, help="judge every net of a space of which a table ships: how well are they ranked?")
    new_tasks: int = option(
        0, minimum=0, help="test tasks each of which has a short search of its own on its support; `supernet` alone"
    )
    new_budget: int = option(10, minimum=1, help="nets that such a search may look at")
    joint_steps: int = option(600, minimum=1, help="of joint training, which precedes meta-training with 'joint_meta'")
    net_way: str = option(
        "joint",
        choices=("joint", "meta"),
        help="how a net is trained, where the fitness is 'train': over all classes, or by MAML",
    )
    net_steps: int = option(300, minimum=1, help="steps or outer steps of that")


def check(options: Any, problem: type[Problem], own: Mapping[str, Any], method: Method) -> None:
    """Raise MetabenchError where a method would have nothing to do, nothing would be there for it, or a budget is too small."""
    del problem
    _check_budgets(options)
    if options.new_tasks and own.get("shots", 1) < 2:
        raise MetabenchError(
            f"kind 'search': new tasks judge nets on two halves of their support, and `shots` is {own.get('shots', 1)}: expected 2 or more"
        )
    if options.islands > 1:
        from metabench.search.islands import check_ring

        check_ring(options.budget, options.islands, options.rounds)
    elif options.rounds > 1:
        raise MetabenchError(f"kind 'search': {options.rounds} rounds of one island: expected 2 islands or more")
    shared = options.fitness == "supernet"
    if options.new_tasks and not shared:
        raise MetabenchError("kind 'search': new tasks adapt shared weights: `new_tasks` goes with `fitness: supernet`")
    if not options.tasks and options.fitness != "table":
        raise MetabenchError("kind 'search': `tasks: 0` means all tasks of a table: say how many")
    wants = shared and options.way not in _WITHOUT_METHOD
    if wants == (method.target is Target.NONE):
        what = f"fitness '{options.fitness}'" + (f" and way '{options.way}'" if shared else "")
        words = "moves shared weights by hypergradients" if wants else "has no hypergradients"
        raise MetabenchError(
            f"kind 'search': {what} {words}: {'name a method' if wants else 'go with the method none'}"
        )


def _check_budgets(options: Any) -> None:
    """Raise MetabenchError where an island's share of the budget is too small for a strategy or predictor; or if one is named twice."""
    from metabench.core.options import build
    from metabench.search.predictors import check_points
    from metabench.search.strategy import STRATEGIES

    known, share = read_strategies(options.strategies), options.budget // options.islands
    island = " of each island" if options.islands > 1 else ""
    for strategy, predictor in known:
        name = f"{strategy} + {predictor}" if predictor else strategy
        if known.count((strategy, predictor)) > 1:
            raise MetabenchError(f"kind 'search': '{name}' is named twice in `strategies`")
        kind = STRATEGIES.loaded()[strategy]
        fewest = kind.fewest(build(kind.card.options, {}, name))
        if share < fewest:
            raise MetabenchError(
                f"kind 'search': '{name}' needs {fewest} evaluations or more, and the budget{island} is {share}"
            )
        if predictor:
            check_points(predictor, share)


def hypergradients(options: Any, own: Mapping[str, Any], outer_steps: int, tasks: int) -> int:
    """Return the hypergradients of meta-training, one for each operation of the space, and the tasks on which nets are judged.

    A task counts as one, though it takes fewer FLOPs. Joint training and nets that are trained one by one are not counted.
    """
    from metabench.models.spaces import space

    evaluations = len(read_strategies(options.strategies)) * options.searches * options.budget * options.tasks
    if options.fitness != "supernet":
        return 0
    return evaluations + ("meta" in options.way) * len(space(own["space"]).operations) * outer_steps * tasks


def prepares(options: Any) -> list[Part]:
    """Return the shared weights where they are trained, then the rounds of islands, which read those before them."""
    found, shared = [], options.fitness == "supernet" and options.way != "untrained"
    if shared:
        found.append(Part(names.SHARED_PART, {"way": options.way, "joint_steps": options.joint_steps}))
    if options.islands > 1:
        settings, picks = dataclasses.asdict(options), (*picked(options.strategies), *tables(options.fitness))
        for number, island in itertools.product(range(options.rounds), range(options.islands)):
            read = [
                names.round_part(one, number - 1) for one in dict.fromkeys((island, (island - 1) % options.islands))
            ]
            needs = (names.SHARED_PART,) * shared + tuple(read) * (number > 0)
            found.append(Part(names.round_part(island, number), settings, needs, picks))
    return found


def prepare(subject: Subject, part: str) -> None:
    """Compute a part, as `metabench.stages.search`."""
    from metabench.stages import search as stage

    stage.prepare(subject, part)


def search(subject: Subject) -> Iterator[Row]:
    """Yield what the strategies chose and paid, as `metabench.stages.search`."""
    from metabench.stages import search as stage

    yield from stage.search(subject)


SEARCH = Kind(
    name="search",
    title="searches for architectures at an equal budget: what each strategy chooses, pays, and is worth on test tasks",
    stages=(well_posed, search),
    columns=(*SIZES, "quality", "metrics", "meta_summary", "train_s", "curves"),
    trains=True,
    trains_none=False,
    options=Options,
    check=check,
    prepares=prepares,
    prepare=prepare,
    hypergradients=hypergradients,
    module=__name__,
    order=7,
)
