"""Predictions for many cells: each shape once, long runs from three short ones, one process per core.

Peak memory, FLOPs and operations of most methods are lines in the number of inner steps T from some T on; a method declares it in
`Cost.affine_from`. Where three short runs confirm it, a long one is read off their line; elsewhere it is simulated in full.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from metabench.core.errors import MetabenchError, TimeLimit
from metabench.core.types import Progress
from metabench.measure.environment import torch_version
from metabench.measure.kernels import choose_kernels
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.code_hash import code_hash, predictor_hash
from metabench.suite.plan.labels import method_of, method_options
from metabench.suite.predict.predictions import CellPrediction, Predictions, instruction_set_of

Predictor = Callable[[Cell, str | None], Any]
"""(cell, device) -> `metabench.suite.predict.one_cell.Prediction`; a device of None is the cell's own."""

FIGURES = ("peak_bytes", "static_bytes", "dynamic_bytes", "flops", "operations", "tasks")

FEW = 4
"""Shapes below which processes cost more than they save."""

WORTH_IT = 2.5
"""Steps of long runs for each further step of short ones: what a solver or an outer loss takes comes with every run, short or long."""

BENT = 0.02
"""Share of a figure by which the line through the last two short runs may miss, at the longest run, that through the first two."""


def predict_cells(
    cells: Sequence[Cell],
    earlier: Predictions,
    progress: Progress,
    device: str | None = None,
    predictor: Predictor | None = None,
    workers: int = 1,
    keep: Callable[[CellPrediction], None] | None = None,
) -> list[CellPrediction]:
    """Return a prediction for each cell, in order; those that `earlier` holds are reused.

    predictor: `metabench.suite.predict.one_cell.predict` unless given. workers: processes; a predictor that is given runs in this one.
    keep: called with each new prediction as soon as it is there. Whatever fails in one cell is its message: a cell that cannot be predicted
    can still be run. A prediction that takes longer than the cell may is given up.

    Raises:
        MetabenchError: this process has loaded torch with other kernels than a cell's.
    """
    found = {place: known for place, cell in enumerate(cells) if (known := earlier.of(cell, device)) is not None}
    groups: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        if place not in found:
            groups.setdefault(_shape(cell), []).append(place)
    missing, done = len(cells) - len(found), 0
    progress("predicting", done, missing)
    # The longest first: what starts last should not be what ends last.
    tasks = sorted(groups.values(), key=lambda places: -max(cells[place].inner_steps for place in places))
    for places, entries in _predicted(tasks, cells, device, predictor, workers):
        for place, entry in zip(places, entries, strict=True):
            found[place] = entry
            if keep is not None:
                keep(entry)
        done += len(places)
        progress("predicting", done, missing)
    return [found[place] for place in range(len(cells))]


def _predicted(
    tasks: Sequence[list[int]], cells: Sequence[Cell], device: str | None, predictor: Predictor | None, workers: int
) -> Iterator[tuple[list[int], list[CellPrediction]]]:
    """Yield what is predicted for the cells at the places of each task, as it comes."""
    if predictor is not None or workers < 2 or len(tasks) < FEW:
        for places in tasks:
            yield places, predict_group([cells[place] for place in places], device, predictor)
        return
    for cell in cells:
        choose_kernels(cell.kernels)
    _import_once()
    waiting, idle = list(tasks), [_worker() for _ in range(min(workers, len(tasks)))]
    # What a process keeps from one cell (results of operations, traces) helps those on the same problem.
    settings = {places[0]: _setting(cells[places[0]]) for places in tasks}
    last: dict[ProcessPoolExecutor, str] = {}
    running: dict[Future[list[CellPrediction]], tuple[ProcessPoolExecutor, list[int]]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker = idle.pop()
                places = min(waiting, key=lambda task: _rank(settings[task[0]], last.get(worker), last.values()))
                waiting.remove(places)
                last[worker] = settings[places[0]]
                running[worker.submit(predict_group, [cells[place] for place in places], device)] = worker, places
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, places = running.pop(future)
                try:
                    entries = future.result()
                except BrokenProcessPool:  # of too little memory, say: that costs no prediction but its own
                    words = "the process that predicted it was ended"
                    entries = [_entry(cells[place], device, {}, words, 0.0) for place in places]
                    worker = _worker()
                idle.append(worker)
                yield places, entries
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            worker.shutdown(wait=False, cancel_futures=True)


def _rank(setting: str, own: str | None, all_last: Collection[str]) -> int:
    """Return how late a process takes cells of a setting: after its own last one's those that no other is at; the first of equals."""
    return 0 if setting == own else 1 + (setting in all_last)


def _worker() -> ProcessPoolExecutor:
    """Return a pool of one process, forked here and now: torch's profiler looks for the thread that imported it."""
    worker = ProcessPoolExecutor(1, mp_context=get_context("fork"))
    worker.submit(int)
    return worker


def _import_once() -> None:
    """Import what predicts, here: its import takes seconds, and processes inherit it. No thread of torch may run before they start.

    What was imported stays; the garbage collector of each process is spared it, which is a tenth of its time.
    """
    from metabench.core.lazy import torch
    from metabench.suite.predict.one_cell import predict

    assert predict
    importlib.import_module("torch.fx.experimental.symbolic_shapes")  # the first vector-Jacobian product would, and sympy with it
    torch.set_num_threads(1)
    gc.freeze()


def predict_group(
    cells: Sequence[Cell], device: str | None = None, predictor: Predictor | None = None, lines: bool = True
) -> list[CellPrediction]:
    """Return a prediction for each of some cells that differ in T and in what changes no shape, in order; in full without `lines`."""
    choose_kernels(cells[0].kernels)
    begun = time.perf_counter()
    simulations = _Simulations(cells[0], device, predictor or _predictor())
    lengths = sorted({cell.inner_steps for cell in cells})
    on_line = simulations.line(lengths) if lines else []
    found = []
    for cell in cells:
        steps = cell.inner_steps
        if on_line and steps > on_line[-1]:
            found.append(_Simulated(simulations.extrapolated(on_line, steps), note=simulations.at(on_line[-1]).note))
        else:
            found.append(simulations.at(steps))
    seconds = (time.perf_counter() - begun) / len(cells)
    return [
        _entry(cell, device, at.figures, at.message, seconds, at.note) for cell, at in zip(cells, found, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class _Simulated:
    figures: dict[str, int]
    message: str = ""
    note: str = ""


class _Simulations:
    """Simulations of one cell at different T, each made once."""

    def __init__(self, cell: Cell, device: str | None, predict: Predictor) -> None:
        self._cell, self._device, self._predict = cell, device, predict
        self._made: dict[int, _Simulated] = {}

    def at(self, steps: int) -> _Simulated:
        """Return what is found at T = `steps`."""
        from metabench.measure.clock import deadline

        if steps not in self._made:
            try:
                with deadline(self._cell.limit_seconds):
                    found = self._predict(dataclasses.replace(self._cell, inner_steps=steps), self._device)
                figures = {name: getattr(found, name) for name in FIGURES} if not found.message else {}
                self._made[steps] = _Simulated(figures, found.message, found.note)
            except TimeLimit:
                message = f"not predicted within the cell's time limit of {self._cell.limit_seconds:g} s"
                self._made[steps] = _Simulated({}, message)
            except MetabenchError as error:
                self._made[steps] = _Simulated({}, str(error))
            except Exception as error:  # a method or a problem may raise anything, and the other cells are to be predicted all the same
                self._made[steps] = _Simulated({}, f"{type(error).__name__}: {error}")
        return self._made[steps]

    def line(self, lengths: Sequence[int]) -> list[int]:
        """Return three T, one after the other, on whose line the longer of `lengths` lie; none where it would cost more than it saves."""
        first = method_of(self._cell).cost.affine_from
        first = first(method_options(self._cell)) if callable(first) else first
        while first is not None:
            looked = [first, first + 1, first + 2]
            extra = sum(steps for steps in {*self._made, *looked} if steps not in lengths)
            if WORTH_IT * extra > sum(steps for steps in lengths if steps > looked[-1]):
                return []
            if any(self.at(steps).message for steps in looked):
                return []
            if self._straight(looked, lengths[-1]):
                return looked
            first += 1
        return []

    def _straight(self, looked: Sequence[int], last: int) -> bool:
        one, two, three = (self.at(steps).figures for steps in looked)
        for name in FIGURES:
            bend = abs((three[name] - two[name]) - (two[name] - one[name])) * (last - looked[-1])
            if bend > BENT * max(self.extrapolated(looked, last)[name], 1):
                return False
        return True

    def extrapolated(self, looked: Sequence[int], steps: int) -> dict[str, int]:
        """Return the figures at T = `steps`, on the line through the last two of the T looked at."""
        two, three = (self.at(each).figures for each in looked[-2:])
        return {name: three[name] + (three[name] - two[name]) * (steps - looked[-1]) for name in FIGURES}


def _entry(
    cell: Cell, device: str | None, figures: dict[str, int], message: str, seconds: float, note: str = ""
) -> CellPrediction:
    found = {name: figures.get(name, 0) for name in FIGURES}
    return CellPrediction(
        problem=cell.problem,
        dataset=cell.dataset,
        size=cell.size,
        inner_steps=cell.inner_steps,
        method=cell.method,
        cell=cell.hash,
        device=device or cell.device,
        threads=cell.threads,
        kernels=cell.kernels,
        instruction_set=instruction_set_of(cell, device),
        code_hash=code_hash(cell),
        predictor_hash=predictor_hash(),
        torch_version=torch_version(),
        message=message,
        note=note,
        seconds=round(seconds, 3),
        **found,
    )


def _shape(cell: Cell) -> str:
    """Return what sets a cell's simulation apart from others', T left out.

    In the options of the package's methods, numbers with a fraction change values and no shape: tolerances, widths of differences. Zero
    may switch something off. Of a plugin's options and a problem's nothing is assumed: one may be a share of the data.
    """
    own = method_of(cell).module.startswith("metabench.")
    shaping = {
        name: bool(value) if own and isinstance(value, float) else value
        for name, value in dataclasses.asdict(method_options(cell)).items()
    }
    place = (cell.device, cell.threads, cell.kernels, cell.plugins, cell.limit_seconds, cell.seeds[0])
    return json.dumps((place, _setting(cell), cell.method, shaping), sort_keys=True)


def _setting(cell: Cell) -> str:
    """Return what sets the tensors of a cell's problem apart from others'."""
    return json.dumps((cell.problem, cell.dataset, cell.size, cell.dtype, cell.problem_options), sort_keys=True)


def _predictor() -> Predictor:
    """Return a predictor for cells that differ in T alone: what it finds of a step at one T counts at the others."""
    from metabench.measure.predicted.flat_runs import KnownRuns
    from metabench.suite.predict.one_cell import predict

    return functools.partial(predict, known=KnownRuns())
