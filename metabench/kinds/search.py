"""Search for architectures by several strategies, on weights that the method meta-trained, on a table, or on nets trained one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core import option
from metabench.core.errors import MetabenchError, unknown
from metabench.core.kind import Kind
from metabench.core.method import Method, Target
from metabench.core.problem import Problem
from metabench.stages.subject import Row, Subject
from metabench.stages.well_posed import SIZES, well_posed

FITNESSES = ("supernet", "table", "train")
WAYS = ("meta", "joint", "joint_meta", "untrained")
_WITHOUT_METHOD = ("joint", "untrained")


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


@dataclass(frozen=True)
class Options:
    """Options of the kind `search`."""

    strategies: str = option(
        "random, random + ridge, evolution, evolution + ridge",
        check=read_strategies,
        help="each with a predictor that screens, if one follows a plus; the first gives the row its quality",
    )
    fitness: str = option(
        "supernet",
        choices=FITNESSES,
        help="adapt shared weights; look nets up in the table; or train every net asked for",
    )
    budget: int = option(25, minimum=1, help="full evaluations of a search")
    tasks: int = option(100, minimum=1, help="validation tasks of a full evaluation")
    searches: int = option(1, minimum=1, help="searches of each strategy and seed, on other tasks each")
    way: str = option("meta", choices=WAYS, help="to shared weights; 'joint' and 'untrained' go with the method `none`")
    joint_steps: int = option(600, minimum=1, help="of joint training, which precedes meta-training with 'joint_meta'")
    net_steps: int = option(150, minimum=1, help="outer steps by which a net is trained, where the fitness is 'train'")


def check(options: Any, problem: type[Problem], own: Mapping[str, Any], method: Method) -> None:
    """Raise MetabenchError where a method would have nothing to do, or nothing would be there for it."""
    del problem, own
    shared = options.fitness == "supernet"
    wants = shared and options.way not in _WITHOUT_METHOD
    if wants == (method.target is Target.NONE):
        what = f"fitness '{options.fitness}'" + (f" and way '{options.way}'" if shared else "")
        words = "moves shared weights by hypergradients" if wants else "has no hypergradients"
        raise MetabenchError(
            f"kind 'search': {what} {words}: {'name a method' if wants else 'go with the method none'}"
        )


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
    module=__name__,
    order=7,
)
