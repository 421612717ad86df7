"""Choose options of the problem by validation, and judge the choice on test data: what a tuned baseline is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabench.core import option
from metabench.core.errors import MetabenchError
from metabench.core.kind import Kind
from metabench.core.method import Method, Target
from metabench.core.options import build
from metabench.core.problem import Problem
from metabench.stages.grids import read_grid
from metabench.stages.tuned import chooses, tuned
from metabench.stages.well_posed import SIZES, well_posed


@dataclass(frozen=True)
class Options:
    """Options of the kind `tuned`."""

    over: str = option(
        "",
        check=read_grid,
        help="options of the problem and the values to choose from: 'rate = {1e-4 to 10 in 16}' are 16 numbers, each the same multiple of "
        "the one before it, '{0.8, 0.9}' two; in a text, 'optimiser = *, rate {1e-4 to 10 in 16}', where * is the option's own value; "
        "several are separated by semicolons",
    )


def check(options: Any, problem: type[Problem], own: Mapping[str, Any], method: Method) -> None:
    """Raise MetabenchError unless something can choose among the points of the grid, and the problem accepts each of them."""
    grid = read_grid(options.over)
    if not grid.axes:
        raise MetabenchError(
            "kind 'tuned' has nothing to tune over: expected {tuned: {over: 'OPTION = {1e-4 to 10 in 16}'}}"
        )
    if method.target is Target.NONE and not chooses(problem):
        raise MetabenchError(
            f"kind 'tuned': {problem.__name__} has no numbers by which the options of '{method.name}', which trains nothing, are chosen: "
            "define chosen_by(meta)"
        )
    for point in grid.points():
        build(problem.card.options, grid.options(point, own), f"problem {problem.__name__} in the grid")


def hypergradients(options: Any, own: Mapping[str, Any], outer_steps: int, tasks: int) -> int:
    """Return the hypergradients of training at every point of the grid."""
    del own
    return len(list(read_grid(options.over).points())) * outer_steps * tasks


TUNED = Kind(
    name="tuned",
    title="options of the problem chosen by validation, one process for a whole grid; the choice is judged on test data",
    stages=(well_posed, tuned),
    columns=(*SIZES, "quality", "metrics", "meta_summary", "train_s", "curves", "pictures"),
    trains=True,
    trains_none=False,
    curves={"validation against AXIS": "the number that decides, at the best of the other axes"},
    options=Options,
    check=check,
    hypergradients=hypergradients,
    module=__name__,
    order=3,
)
