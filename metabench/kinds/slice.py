"""Show a method's hypergradient against the only meta-parameter of a problem: what it estimates, and how much one estimate scatters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core import option
from metabench.core.errors import MetabenchError
from metabench.core.kind import Kind
from metabench.core.method import Method
from metabench.core.problem import Problem
from metabench.results.slices import CLOSED_FORM, DEVIATION, HYPERGRADIENT, MEAN
from metabench.stages.slice import along_meta
from metabench.stages.well_posed import SIZES, well_posed


@dataclass(frozen=True)
class Options:
    """Options of the kind `slice`."""

    least: float = option(0.1, help="least value of the meta-parameter")
    most: float = option(2.0, help="greatest value of the meta-parameter")
    points: int = option(20, minimum=2, help="values, equally spaced")
    trials: int = option(
        100, minimum=1, help="trials at each value: initial parameters, data and what the method draws"
    )


def check(options: Any, problem: type[Problem], own: Mapping[str, Any], method: Method) -> None:
    """Raise MetabenchError unless the values ascend."""
    del problem, own, method
    if not options.least < options.most:
        raise MetabenchError(
            f"kind 'slice': `least` is {options.least:g} and `most` {options.most:g}: expected a greater one"
        )


SLICE = Kind(
    name="slice",
    title="a method's hypergradient against the only meta-parameter of a problem, over many trials",
    stages=(well_posed, along_meta),
    columns=(*SIZES, "curves"),
    curves={
        HYPERGRADIENT: "median and quartiles over trials",
        MEAN: "mean over trials",
        DEVIATION: "standard deviation over trials",
        CLOSED_FORM: "at the inner minimum, where the problem knows it",
    },
    options=Options,
    check=check,
    module=__name__,
    order=4,
)
