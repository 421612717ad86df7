"""Hold the generalisation bound of meta-learning in the limit against test errors, over families of tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core import option
from metabench.core.errors import MetabenchError
from metabench.core.kind import Kind
from metabench.core.method import Method
from metabench.core.problem import Problem
from metabench.stages.generalisation import generalisation


@dataclass(frozen=True)
class Options:
    """Options of the kind `bound`."""

    tasks: str = option("8, 32, 96", help="numbers of training tasks")
    test_tasks: int = option(200, minimum=1, help="tasks over which a test error is the mean")
    tau: float = option(1.0, above=0, help="time of the inner run, on the sum of squared errors")
    clip: float = option(1.0, above=0, help="largest loss of a query; the bound is trivial above it")
    delta: float = option(0.05, above=0, maximum=1, help="probability with which the bound may fail")


def check(options: Any, problem: type[Problem], own: Mapping[str, Any], method: Method) -> None:
    """Raise MetabenchError unless numbers of tasks are named."""
    del problem, own, method
    if not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*", options.tasks):
        raise MetabenchError(
            f"kind 'bound': `tasks` is '{options.tasks}': expected whole numbers above 0, as '8, 32, 96'"
        )


BOUND_KIND = Kind(
    name="bound",
    title="the generalisation bound of MAML in the limit of infinite width, against test errors of families of tasks",
    stages=(generalisation,),
    columns=("curves", "meta_summary"),
    options=Options,
    check=check,
    module=__name__,
    order=6,
)
