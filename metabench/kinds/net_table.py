"""A table of nets: every net of a space trained from nothing with several seeds, and judged on the same tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core import option
from metabench.core.errors import MetabenchError
from metabench.core.kind import Kind, Part
from metabench.core.method import Method, Target
from metabench.core.problem import Problem
from metabench.data.registry import DATASETS
from metabench.results import net_tables as names
from metabench.stages.subject import Row, Subject
from metabench.stages.well_posed import SIZES, well_posed


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of '0, 1, 2'; raise MetabenchError if these are no ascending whole numbers."""
    try:
        found = tuple(int(one) for one in str(text).split(","))
    except ValueError:
        found = ()
    if not found or sorted(set(found)) != list(found) or found[0] < 0:
        raise MetabenchError(f"'{text}': expected ascending whole numbers such as '0, 1, 2'")
    return found


@dataclass(frozen=True)
class Options:
    """Options of the kind `net_table`."""

    way: str = option(
        "joint",
        choices=("joint", "meta", names.SHIPPED),
        picks=lambda way: [(DATASETS, names.SHIPPED_TABLE)] if way == names.SHIPPED else [],
        help="over all training classes, with the method `none`; by a method's hypergradients; or not at all: the table that ships",
    )
    joint_steps: int = option(800, minimum=1, help="of joint training")
    joint_batch: int = option(128, minimum=1, help="images of such a step")
    joint_learning_rate: float = option(0.02, above=0, help="of Adam in it, at the beginning of a cosine")
    training_seeds: str = option("0, 1, 2", check=whole_numbers, help="with which every net is trained")
    validation: int = option(300, minimum=1, help="tasks of the validation domains on which answers are counted")
    test: int = option(500, minimum=1, help="tasks of the test domains")
    steps: str = option("1, 2, 3, 4, 5", check=whole_numbers, help="of adaptation, after which answers are counted")
    jobs: int = option(8, minimum=1, help="into which the training is divided")


def check(options: Any, problem: type[Problem], own: Mapping[str, Any], method: Method) -> None:
    """Raise MetabenchError where a method would have nothing to do, or nothing would train the nets."""
    del problem, own
    if (options.way == "meta") == (method.target is Target.NONE):
        words = (
            "trains by hypergradients: name a method"
            if options.way == "meta"
            else "has none: it goes with the method none"
        )
        raise MetabenchError(f"kind 'net_table': way '{options.way}' {words}")


def hypergradients(options: Any, own: Mapping[str, Any], outer_steps: int, tasks: int) -> int:
    """Return the hypergradients of training every net with every seed."""
    from metabench.models.spaces import space

    return space(own["space"]).size * len(whole_numbers(options.training_seeds)) * outer_steps * tasks


def prepares(options: Any) -> list[Part]:
    """Return the jobs among which the nets are divided, then the table of all."""
    if options.way == names.SHIPPED:
        return []
    settings = dataclasses.asdict(options)
    shards = [Part(names.shards_part(number), settings) for number in range(options.jobs)]
    return [*shards, Part(names.TABLE_PART, settings, tuple(part.name for part in shards))]


def prepare(subject: Subject, part: str) -> None:
    """Compute a part, as `metabench.stages.net_table`."""
    from metabench.stages import net_table as stage

    stage.prepare(subject, part)


def net_table(subject: Subject) -> Iterator[Row]:
    """Yield what a table says of its nets, as `metabench.stages.net_table`."""
    from metabench.stages import net_table as stage

    yield from stage.net_table(subject)


NET_TABLE = Kind(
    name="net_table",
    title="tables of nets, each trained from nothing: by which searches have a regret, and how far rankings agree",
    stages=(well_posed, net_table),
    columns=(*SIZES, "quality", "metrics", "meta_summary", "curves"),
    trains=True,
    trains_none=False,
    options=Options,
    check=check,
    prepares=prepares,
    prepare=prepare,
    hypergradients=hypergradients,
    module=__name__,
    order=8,
)
