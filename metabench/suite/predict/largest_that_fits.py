"""What fits into a budget of memory: for each method and size of a problem, the largest number of inner steps T.

T runs through the powers of two. The memory of most methods is affine in T from some small T on; where it is, a few predictions decide
for every T. Whether it is, is looked at on the smallest size, where that is cheap, and again on the size in question: three T that lie on
a line. Where it is not (schedules of checkpoints), the largest T is sought among those predicted, up to `PREDICTED_AT_MOST`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

from metabench.core.errors import unknown
from metabench.core.options import options_text
from metabench.core.types import Progress
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import label, method_options, problem_class, problem_options
from metabench.suite.plan.plan import Plan
from metabench.suite.predict.cells import Predictor, predict_group
from metabench.suite.predict.predictions import CellPrediction

LOOKED_AT = (4, 8, 16)
PREDICTED_AT_MOST = 16
EXTRAPOLATED_AT_MOST = 2**20


@dataclass(frozen=True)
class Largest:
    """The largest T of a method at a size.

    steps: None where not even one step fits, or where there is no prediction (`message` says why). any: memory does not depend on T.
    extrapolated: from the bytes that each further step adds. more: larger T were not looked at. note: what the predictions leave out: the
    largest T may then be smaller.
    """

    steps: int | None = None
    any: bool = False
    extrapolated: bool = False
    more: bool = False
    message: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        """The answer for a table."""
        if self.message:
            return "?"
        if self.any:
            return "any"
        if self.steps is None:
            return "none"
        return f"{self.steps}{'+' if self.more else ''}{'*' if self.extrapolated else ''}"


@dataclass(frozen=True)
class Answer:
    """One problem on one data set with its options: answers by method and size, from small to large; methods are added when known."""

    experiment: str
    problem: str
    dataset: str
    problem_options: str
    device: str
    dtype: str
    sizes: tuple[str, ...]
    methods: dict[str, dict[str, Largest]]


def answers(
    plan: Plan,
    budget: int,
    progress: Progress,
    device: str | None = None,
    sizes: Sequence[str] = (),
    predictor: Predictor | None = None,
    workers: int = 1,
) -> Iterator[tuple[Answer, str]]:
    """Yield each problem's answer (with its data set and options) with a method, as soon as what of it fits into `budget` bytes is known.

    An answer is the same object from its first method to its last. device: the cells' own if None. sizes: those of the problems' cards if
    empty. A method that the plan has twice on a problem is answered once. workers: processes, each of which takes a method; more than one
    needs a main module that can be imported, as a command line has, and no predictor of its own.

    Raises:
        MetabenchError: a size that no problem of the plan has.
    """
    groups = _groups(plan)
    known = dict.fromkeys(size for cells in groups for size in _sizes(cells[0]))
    for size in sizes:
        if size not in known:
            raise unknown("size", size, known)
    search = _Search(budget, device, predictor)
    total, done = sum(map(len, groups)), 0
    with _pool(min(workers, total // 2) if predictor is None else 1) as spread:
        for cells in groups:
            progress("sizes", done, total)
            order = search.order(cells[0], [size for size in _sizes(cells[0]) if not sizes or size in sizes])
            answer = Answer(
                cells[0].experiment,
                cells[0].problem,
                cells[0].dataset,
                options_text(problem_options(cells[0])),
                device or cells[0].device,
                cells[0].dtype,
                tuple(order),
                {},
            )
            found = spread(search.method, cells, [order] * len(cells)) if order else ()
            for cell, by_size in zip(cells, found, strict=bool(order)):
                done += 1
                answer.methods[_label(cell)] = by_size
                progress("methods", done, total)
                yield answer, _label(cell)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield what `map` is, spread over `workers` processes."""
    if workers < 2:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


@dataclass
class _Search:
    """What is asked, and the predictions so far: each is made once per process."""

    budget: int
    device: str | None
    predictor: Predictor | None
    _found: dict[tuple[str, str, int], CellPrediction] = field(default_factory=dict)

    def order(self, cell: Cell, sizes: Sequence[str]) -> list[str]:
        """Return the sizes in the order of what is given to a method at each; as they are where one is not known."""
        static = {size: self.at(cell, size, 1).static_bytes for size in sizes}
        return sorted(sizes, key=lambda size: static[size]) if all(static.values()) else list(sizes)

    def method(self, cell: Cell, sizes: Sequence[str]) -> dict[str, Largest]:
        """Return the answers of one method by size, from small to large."""
        answers: dict[str, Largest] = {}
        affine: bool | None = None
        for place, size in enumerate(sizes):
            if affine is None and not self.at(cell, size, 1).message:
                affine = self._slope(cell, size, LOOKED_AT) is not None
            found = self.largest(cell, size, bool(affine))
            answers[size] = found = dataclasses.replace(found, note=self.at(cell, size, 1).note)
            if found.steps is None and not found.message and not found.any:
                # What is given to the method only grows from here on.
                return answers | dict.fromkeys(sizes[place:], found)
        return answers

    def at(self, cell: Cell, size: str, steps: int) -> CellPrediction:
        """Return the prediction of a cell at another size and T."""
        asked = dataclasses.replace(cell, size=size, inner_steps=steps)
        key = (cell.method, asked.hash, steps)
        if key not in self._found:
            (self._found[key],) = predict_group([asked], self.device, self.predictor, lines=False)
        return self._found[key]

    def largest(self, cell: Cell, size: str, affine: bool) -> Largest:
        """Return the largest T that fits. `affine`: whether the memory at a small size is affine in T."""
        first = self.at(cell, size, 1)
        if first.message:
            return Largest(message=first.message)
        if not self._fits(first):
            return Largest()
        return (self._along_a_line(cell, size) if affine else None) or self._by_halves(cell, size)

    def _along_a_line(self, cell: Cell, size: str) -> Largest | None:
        """Return the largest T from a few predictions; None where they lie on no line."""
        looked = [1]
        for steps in (2, *LOOKED_AT):
            found = self.at(cell, size, steps)
            if found.message:
                return Largest(message=found.message)
            if not self._fits(found):
                return Largest(looked[-1])
            looked.append(steps)
            slope = self._slope(cell, size, looked[-3:]) if len(looked) > 2 else None
            if slope is not None and slope > 0:
                return self._extrapolated(found, slope)
            if slope is not None and self.at(cell, size, PREDICTED_AT_MOST).peak_bytes == found.peak_bytes:
                return Largest(any=True)
        return None

    def _by_halves(self, cell: Cell, size: str) -> Largest:
        """Return the largest T of those that are predicted one by one; more steps never take less memory."""
        fits, fails = 1, 2 * PREDICTED_AT_MOST
        steps = PREDICTED_AT_MOST
        while True:
            found = self.at(cell, size, steps)
            if found.message:
                return Largest(message=found.message)
            fits, fails = (steps, fails) if self._fits(found) else (fits, steps)
            between = list(_doubling(2 * fits, fails // 2))
            if not between:
                return Largest(fits, more=fits == PREDICTED_AT_MOST)
            steps = between[len(between) // 2]

    def _fits(self, found: CellPrediction) -> bool:
        return not found.message and found.peak_bytes <= self.budget

    def _extrapolated(self, last: CellPrediction, slope: int) -> Largest:
        """Return the largest T, given the last prediction and the bytes of each further step."""
        fits = last.inner_steps
        for steps in _doubling(2 * fits, EXTRAPOLATED_AT_MOST):
            if last.peak_bytes + (steps - last.inner_steps) * slope > self.budget:
                return Largest(fits, extrapolated=fits > last.inner_steps)
            fits = steps
        return Largest(fits, extrapolated=True, more=True)

    def _slope(self, cell: Cell, size: str, steps: Sequence[int]) -> int | None:
        """Return the bytes that each further step adds, if that is the same number from each of `steps` to the next."""
        found = [self.at(cell, size, each) for each in steps]
        if any(each.message for each in found):
            return None
        slopes = {
            (after.peak_bytes - before.peak_bytes) / (after.inner_steps - before.inner_steps)
            for before, after in pairwise(found)
        }
        slope = slopes.pop()
        return int(slope) if not slopes and slope.is_integer() else None


def _groups(plan: Plan) -> list[list[Cell]]:
    """Return the cells of the plan by problem, data set and problem's options, each method with its options once."""
    grouped: dict[tuple[str, ...], dict[str, Cell]] = {}
    for cell in plan.cells:
        key = (cell.problem, cell.dataset, options_text(problem_options(cell)), cell.dtype)
        grouped.setdefault(key, {}).setdefault(_label(cell), cell)
    return [list(cells.values()) for cells in grouped.values()]


def _sizes(cell: Cell) -> Iterable[str]:
    return problem_class(cell).card.named_sizes(cell.plugin_files)


def _label(cell: Cell) -> str:
    return label(cell.method, method_options(cell))


def _doubling(first: int, last: int) -> Iterator[int]:
    steps = first
    while steps <= last:
        yield steps
        steps *= 2
