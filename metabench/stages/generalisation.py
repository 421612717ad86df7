"""The generalisation bound of meta-learning in the limit, beside the test errors that it is about, over families of tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.kernels.bound import measured, ranks
from metabench.kernels.families import families
from metabench.kernels.meta_kernel import MetaKernel
from metabench.kernels.responses import Time
from metabench.results.bounds import BOUND, COMPLEXITY, FAMILY, RANKS, TEST_ERROR, with_tasks
from metabench.stages.subject import Row, Subject


@runtime_checkable
class Limited(Protocol):
    """A problem whose network has a kernel in the limit of infinite width."""

    limit: MetaKernel


def generalisation(subject: Subject) -> Iterator[Row]:
    """Yield curves over families of sinusoids for each number of training tasks: bound, complexity and test error.

    They are of the problem's network at infinite width and of a response of its own, by time, and of no method: MAML in the limit.

    Raises:
        MetabenchError: the problem's network has no kernel in the limit, or as `measured`.
    """
    options, problem = subject.kind_options, subject.problem
    if not isinstance(problem, Limited):
        raise MetabenchError(
            "kind 'bound' needs a problem whose network has a limit of infinite width, as few_shot_regression"
        )
    counts = [int(count) for count in options.tasks.split(",")]
    subject.tell("bound")
    rows = measured(
        MetaKernel(problem.limit.kernel, Time(options.tau), head=problem.limit.head),
        families(),
        counts,
        test_tasks=options.test_tasks,
        seed=subject.seed,
        clip=options.clip,
        delta=options.delta,
    )
    found = {}
    for count in counts:
        of = [row for row in rows if row.tasks == count]
        values = {
            BOUND: [row.bound.total for row in of],
            COMPLEXITY: [row.complexity for row in of],
            TEST_ERROR: [row.test_error for row in of],
        }
        found |= {with_tasks(name, count): Curve(list(range(len(of))), mine, along=FAMILY) for name, mine in values.items()}
    yield {
        "curves": found,
        "meta_summary": {with_tasks(RANKS, count): value for count, value in ranks(rows).items()},
    }
