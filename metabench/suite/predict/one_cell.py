"""What one hypergradient of a cell would need, before anything is run: on any machine, for any size."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from metabench import data
from metabench.core.errors import MESSAGE_LENGTH, MetabenchError
from metabench.core.lazy import torch
from metabench.core.randomness import generator
from metabench.core.types import Window
from metabench.data.stand_in import stand_in
from metabench.measure.kernels import choose_kernels
from metabench.measure.outcome import outcome
from metabench.measure.predicted.memory import PredictedCall, fake_tensors, predict_memory
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import load_data, method_of, method_options, problem_of


@dataclass(frozen=True)
class Prediction:
    """Bytes, floating-point operations and torch operations of one hypergradient; where there is none they are 0, and `message` says why.

    The bytes are those of a row: `static_bytes` of the arguments, `dynamic_bytes` during the call, `peak_bytes` their sum. `flops` are
    counted by torch's FLOP counter, `operations` are calls of torch's kernels: a lower bound on time where tensors are small. `tasks` are
    those of an outer step, of one of which the rest is. `note` says what the bytes leave out.
    """

    peak_bytes: int
    static_bytes: int
    dynamic_bytes: int
    flops: int
    operations: int
    message: str = ""
    note: str = ""
    tasks: int = 1


def predict(cell: Cell, device: str | None = None, known: Any = None) -> Prediction:
    """Return what one hypergradient of the cell needs, at its first seed, on its own device or on another ('cpu', 'cuda').

    The problem is built and the method is called on tensors without memory. A method that refuses the problem gives its words, whatever
    else goes wrong gives what; a prediction never fails and is never a guess. Data sets are loaded; in place of a few-shot one
    that is not there, images of the shape that its card names.
    `known` as in `predict_memory`.
    """
    try:
        found, tasks = _predicted(cell, cell.device if device is None else device, known)
    except MetabenchError as error:
        return _none(str(error))
    except (
        Exception
    ) as error:  # every failure is a prediction that says why: this is the one place that may catch everything
        status, message = outcome(error)
        return _none(message if status == "unsupported" else f"the cell cannot be simulated: {message}")
    memory = found.memory
    return Prediction(
        memory.peak_bytes,
        memory.static_bytes,
        memory.dynamic_bytes,
        found.flops,
        found.operations,
        note=found.note,
        tasks=tasks,
    )


def _none(message: str) -> Prediction:
    return Prediction(0, 0, 0, 0, 0, message[:MESSAGE_LENGTH])


def _predicted(cell: Cell, device: str, known: Any) -> tuple[PredictedCall, int]:
    choose_kernels(cell.kernels)
    seed = cell.seeds[0]
    method = method_of(cell)
    options = method_options(cell)
    loaded = _loaded(cell)
    with _threads(cell.threads), _caches_left_real(), fake_tensors() as fakes:
        # On a CPU: the shapes are those on every device.
        instance = problem_of(cell, seed, loaded, "cpu", cell.dtype, simulated=True)
        meta, windows = instance.initial(), next(iter(instance.windows()))
        window = windows[0]
        instance, state = instance.entered(window, None)
        stream = generator(seed, "cost")
        arguments = (state.params, state.optimiser, meta, window.inner, window.outer)

        def call(through: Window) -> Any:
            return method(instance, state, meta, through, options, stream)

        # What is made once per process is made by the last step alone, so that the long call need not be simulated twice.
        before = functools.partial(call, window.last(1)) if len(window.inner) > 2 else None
        return predict_memory(functools.partial(call, window), arguments, fakes, device, before, known), len(windows)


_last_loaded: dict[tuple[str, tuple[str, ...]], Any] = {}


def _loaded(cell: Cell) -> Any:
    """Return the cell's data set, or zeros of its shape: shapes alone count. The cells of an experiment, one after another, share it."""
    key = (cell.dataset, tuple(cell.plugins))
    if key not in _last_loaded:
        _last_loaded.clear()
        try:
            _last_loaded[key] = load_data(cell)
        except MetabenchError:
            found = stand_in(data.card(cell.dataset, cell.plugin_files))
            if found is None:
                raise
            _last_loaded[key] = found
    return _last_loaded[key]


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use the cell's threads: some kernels take memory for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _caches_left_real() -> Iterator[None]:
    """Empty, after the block, every cache of a function, in metabench or a plugin, that has kept a fake tensor in it.

    Such a function would hand it to a real computation later in the process.
    """
    try:
        yield
    finally:
        for module in list(sys.modules.values()):
            for value in list(vars(module).values()) if _may_keep_tensors(module) else ():
                if isinstance(value, _CACHED) and value.cache_info().currsize and _keeps_fake_tensors(value):
                    value.cache_clear()


_CACHED = type(functools.cache(len))
_LIBRARIES = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "scipy", "sympy", "pandas", "sklearn"}


def _may_keep_tensors(module: Any) -> bool:
    return getattr(module, "__name__", "torch").partition(".")[0] not in _LIBRARIES


def _keeps_fake_tensors(cached: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    waiting: list[Any] = [
        value for kept in gc.get_referents(cached) if isinstance(kept, dict) for value in kept.values()
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, FakeTensor):
            return True
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif type(value).__name__ == "_lru_list_elem":
            waiting += gc.get_referents(value)
    return False
