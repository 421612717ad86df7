"""Running a cell: for each seed, cost at a shared checkpoint, error against the exact hypergradient, and final quality.

Memory, time and error are measured at the same checkpoint for every method: the state after a few windows of plain training at the
initial meta-parameters. Every failure becomes a row, which keeps what was measured before.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from metabench import data
from metabench.autodiff.exact import exact_target
from metabench.autodiff.inner import begun, check_finite, run
from metabench.autodiff.optimisers import Adam, Momentum
from metabench.core import tree
from metabench.core.checks import check_hypergradient, non_finite
from metabench.core.errors import MESSAGE_LENGTH, Diverged, MetabenchError, TimeLimit
from metabench.core.lazy import torch
from metabench.core.method import Hypergradient, Method, Target
from metabench.core.problem import InnerOptimiser, Problem
from metabench.core.randomness import generator
from metabench.core.types import InnerState, Progress, Tree, Window
from metabench.measure.clock import Stopwatch, deadline, pin_threads, time_call
from metabench.measure.environment import environment
from metabench.measure.kernels import choose_kernels
from metabench.measure.memory.bound import memory_bound
from metabench.measure.memory.meter import measure_memory
from metabench.measure.outcome import outcome
from metabench.measure.yardstick import Disagreement, Unsettled, disagreement
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import method_of, method_options, problem_of
from metabench.suite.run.rows import base_row, failed_row
from metabench.suite.run.well_posed import check_derivatives, check_losses, check_reach, check_trees

Row = dict[str, Any]

_NET = 2
"""By how many times its memory limit a whole cell may grow. The memory pass enforces the limit itself to the byte; this safety net
lets a cell far past its limit end as a row, without affecting other processes."""

_LOOKED_THROUGH = 4
"""Outer steps within whose windows a meta-parameter must reach the outer loss."""

_CHECK_SHARE = 0.05
"""Share of a cell's time limit that checks of the exact hypergradient against plain training may take, all seeds together."""


def run_cell(cell: Cell, progress: Progress) -> Iterator[Row]:
    """Yield one finished row per seed. Failures of a seed are recorded in its row.

    Raises MetabenchError if this process has loaded torch with other kernels than the cell's.
    """
    choose_kernels(cell.kernels)
    place = environment(cell.device)
    pin_threads(cell.threads)
    loaded = data.load(cell.dataset)
    until = time.perf_counter() + cell.limit_seconds
    for index, seed in enumerate(cell.seeds):
        left = until - time.perf_counter()
        if left <= 0:
            message = f"the cell's {cell.limit_seconds:g} s were spent by the seeds before this one"
            yield failed_row(cell, seed, "timeout", message, place)
            continue
        row = base_row(cell, seed, place)
        try:
            with deadline(left), memory_bound(_NET * cell.limit_bytes, torch.device(cell.device)):
                for stage in _SeedRun.of(cell, seed, loaded, first=index == 0, progress=progress).stages():
                    row.update(stage)
            row |= {"status": "ok", "message": row.get("message", "")}
        except TimeLimit:
            row |= {"status": "timeout", "message": f"passed the cell's time limit of {cell.limit_seconds:g} s"}
        except MetabenchError as error:  # of the problem or the method: its words are for whoever wrote that
            row |= {"status": "error", "message": str(error)[:MESSAGE_LENGTH]}
        except Exception as error:  # every failure is a row: this is the one place that may catch everything
            status, message = outcome(error)
            row |= {"status": status, "message": message[:MESSAGE_LENGTH]}
        yield row


@dataclass
class _SeedRun:
    """One seed of a cell, in stages; each stage yields the columns that it fills."""

    cell: Cell
    seed: int
    loaded: Any
    method: Method
    options: Any
    first: bool
    progress: Progress

    @classmethod
    def of(cls, cell: Cell, seed: int, loaded: Any, first: bool, progress: Progress) -> _SeedRun:
        method = method_of(cell)
        return cls(cell, seed, loaded, method, method_options(cell), first, progress)

    def stages(self) -> Iterator[Row]:
        whole = Stopwatch()
        with whole:
            instance = self._problem(self.cell.dtype)
            state, meta = instance.initial_state()
            self._check(instance, state, meta)
            yield {"batch": instance.batch, "n_params": tree.count(state.params), "n_meta": tree.count(meta)}
            yield from self._cost(instance)
            yield from self._error()
            if self.cell.kind == "quality":
                yield from self._quality(instance)
        yield {"measured_s": whole.seconds}

    def _problem(self, dtype: str) -> Problem:
        return problem_of(self.cell, self.seed, self.loaded, self.cell.device, dtype)

    def _check(self, instance: Problem, state: InnerState, meta: Tree) -> None:
        """Raise what is wrong with the problem, before anything is measured on it."""
        check_trees(state, meta)
        windows = itertools.chain.from_iterable(itertools.islice(instance.windows(), _LOOKED_THROUGH))
        first = next(windows)
        try:
            check_losses(instance, state, meta, first)
            check_reach(instance, state, meta, itertools.chain([first], windows))
            if self.first and tree.count(state.params) <= self.cell.measure["error_max_params"]:
                precise = self._problem("float64")
                check_derivatives(precise, *precise.initial_state(), next(precise.windows())[0])
        except Exception as error:
            # One inner step is recorded here. A method that needs less memory than that is not to fail for it.
            if outcome(error)[0] != "oom":
                raise

    def _hypergradient(
        self, instance: Problem, state: InnerState, meta: Tree, window: Window, stream: torch.Generator
    ) -> Hypergradient:
        return self.method(instance, state, meta, window, self.options, stream)

    def _stream(self, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, self.cell.device)

    def _checkpoint(self, instance: Problem) -> tuple[InnerState | None, Tree, Iterator[Window]]:
        """Return where all methods are compared, and the first task's windows that follow; no state at the very beginning."""
        meta, windows = instance.initial(), (tasks[0] for tasks in instance.windows())
        state: InnerState | None = None
        for window in itertools.islice(windows, self.cell.measure["checkpoint"]):
            state = _plain(*instance.entered(window, state), meta, window)
        return state, meta, windows

    def _cost(self, instance: Problem) -> Iterator[Row]:
        before, meta, windows = self._checkpoint(instance)
        window = next(windows)
        instance, state = instance.entered(window, before)
        stream = self._stream("cost")

        def call() -> Hypergradient:
            return self._hypergradient(instance, state, meta, window, stream)

        self.progress(f"seed {self.seed}: first call", 0, 1)
        begun = time.perf_counter()
        found = call()
        _synchronise(self.cell.device)
        if self.first:
            yield {"first_call_s": time.perf_counter() - begun}
        check_hypergradient(found, state, meta)
        lost = non_finite(found)
        yield {"diagnostics": found.diagnostics} if found.diagnostics else {}
        del found

        self.progress(f"seed {self.seed}: memory", 0, 1)
        arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
        _, memory = measure_memory(call, arguments, self.cell.device, self.cell.limit_bytes)
        yield {
            "peak_bytes": memory.peak_bytes,
            "static_bytes": memory.static_bytes,
            "dynamic_bytes": memory.dynamic_bytes,
            "memory_source": memory.source,
        }

        self.progress(f"seed {self.seed}: time", 0, 1)
        settings = self.cell.measure
        timing = time_call(call, self.cell.device, repeats=settings["time_repeats"], budget_s=settings["time_budget"])
        yield {
            "time_median_s": timing.median_s,
            "time_q1_s": timing.q1_s,
            "time_q3_s": timing.q3_s,
            "time_repeats": timing.repeats,
        }
        if instance.inner_segments():
            # Here: few problems have segments, and the others need not import what counts their memory.
            from metabench.autodiff.traced.memory_floor import mixed_mode_floor

            yield {"floor_bytes": mixed_mode_floor(instance, state, meta, window)}
        if lost:
            raise Diverged(f"{lost} at the checkpoint")

    def _quality(self, instance: Problem) -> Iterator[Row]:
        meta, windows = instance.initial(), instance.windows()
        states: dict[int, InnerState] = {}
        stream = self._stream("training")
        move = _outer_update(instance, meta)
        drawing, steps = Stopwatch(), self.cell.outer_steps
        outer_loss = math.nan
        whole = Stopwatch()
        with whole:
            for done in range(steps):
                self.progress(f"seed {self.seed}: training", done, steps)
                with drawing:
                    tasks = next(windows)
                found = []
                for task, window in enumerate(tasks):
                    seen, begun = instance.entered(window, states.get(task))
                    found.append(self._hypergradient(seen, begun, meta, window, stream))
                    states[task] = found[-1].state
                hypergradient = tree.mean([one.meta for one in found])
                outer_loss = sum(one.outer_loss for one in found) / len(found)
                if not math.isfinite(outer_loss):
                    raise Diverged(f"the outer loss is {outer_loss} after {done + 1} of {steps} meta-updates")
                if not tree.all_finite(hypergradient):
                    raise Diverged(f"the hypergradient is not finite after {done + 1} of {steps} meta-updates")
                if self.method.target is not Target.NONE:
                    meta = move(hypergradient, meta)
            _synchronise(self.cell.device)
        self.progress(f"seed {self.seed}: training", steps, steps)
        check_finite(states[0])
        metrics = instance.evaluate(states[0].params, meta)
        quality = metrics[instance.card.metrics[0].name]
        if not math.isfinite(quality) or not tree.all_finite(meta):
            raise Diverged(f"the meta-parameters or the metric ({quality}) are not finite after the last meta-update")
        yield {
            "quality": quality,
            "metrics": metrics,
            "outer_loss": outer_loss,
            "meta_summary": instance.summary(meta),
            "train_s": whole.seconds,
            "data_s": drawing.seconds,
        }

    def _error(self) -> Iterator[Row]:
        settings = self.cell.measure
        if not settings["error_windows"] or self.method.target is Target.NONE:
            return
        problem = self._problem("float64")
        before, meta, windows = self._checkpoint(problem)
        stream = self._stream("error")
        draws = settings["error_draws"] if self.method.stochastic else 1
        against: dict[str, list[list[Comparison]]] = {"hypergradient": [], "target": []}
        means: dict[str, list[Comparison]] = {"hypergradient": [], "target": []}
        missing: list[str] = []
        for done in range(settings["error_windows"]):
            self.progress(f"seed {self.seed}: error", done, settings["error_windows"])
            window = next(windows)
            instance, state = problem.entered(window, before)
            if tree.count(state.params) > settings["error_max_params"]:
                yield {"message": f"no exact hypergradient: more than {settings['error_max_params']} inner parameters"}
                return
            try:
                exact = exact_target(Target.UNROLLED, instance, state, meta, window, self.options)
                own = (
                    exact
                    if self.method.target is Target.UNROLLED
                    else exact_target(self.method.target, instance, state, meta, window, self.options)
                )
            except TimeLimit:
                raise
            except Exception as error:  # the yardstick failed, not the method: the row says so and keeps its figures
                yield {"message": f"no exact hypergradient: {outcome(error)[1]}"[:MESSAGE_LENGTH]}
                return
            if done == 0 and exact is not None:
                yield from self._yardstick(instance, state, meta, window, exact, own, missing)
            found = [self._hypergradient(instance, state, meta, window, stream).meta for _ in range(draws)]
            for prefix, reference in (("hypergradient", exact), ("target", own)):
                if reference is not None and float(tree.norm(reference)) > 0:
                    against[prefix].append([_compare(one, reference) for one in found])
                    means[prefix].append(_compare(tree.mean(found), reference))
            before = _plain(instance, state, meta, window)
        for prefix, compared in against.items():
            if compared:
                yield _summary(prefix, [one for window_draws in compared for one in window_draws])
            if compared and self.method.stochastic:
                cosines = [one.cosine for window_draws in compared for one in window_draws]
                yield {
                    f"{prefix}_cosine_sd": statistics.stdev(cosines) if len(cosines) > 1 else None,
                    f"{prefix}_mean_cosine": statistics.fmean(one.cosine for one in means[prefix]),
                }
        yield {"hypergradient_samples": sum(len(window_draws) for window_draws in against["hypergradient"])}
        if not against["target"]:
            missing.append(f"the exact value of its own target, {self.method.target.value}, is out of reach here")
        if missing:
            yield {"message": "; ".join(missing)[:MESSAGE_LENGTH]}

    def _yardstick(
        self,
        instance: Problem,
        state: InnerState,
        meta: Tree,
        window: Window,
        exact: Tree,
        own: Tree | None,
        missing: list[str],
    ) -> Iterator[Row]:
        """Compare the exact hypergradients of a window with plain training; what cannot be compared is added to `missing`.

        The target of an implicit or smoothed method is not a derivative of plain training: for these, only `exact` is compared.

        Raises:
            MetabenchError: one of them is wrong, so errors measured against it are meaningless.
        """
        whole = len(window.inner)
        references = [(exact, whole)]
        last = _steps_through(self.method.target, self.options, window)
        if own is not None and last is not None and (last < whole or _differ(own, exact)):
            references.append((own, last))
        seconds = _CHECK_SHARE * self.cell.limit_seconds / len(self.cell.seeds) / len(references)
        found: list[tuple[Disagreement, int]] = []
        for done, (reference, steps) in enumerate(references):
            self.progress(f"seed {self.seed}: finite differences", done, len(references))
            stream = self._stream("yardstick")
            try:
                compared = disagreement(instance, state, meta, window, reference, stream, steps=steps, seconds=seconds)
            except TimeLimit:
                raise
            except Exception as error:  # of plain training at other meta-parameters, of which the method knows nothing
                why = str(error) if isinstance(error, Unsettled) else outcome(error)[1]
                missing.append(f"the exact hypergradient is not checked: {why}")
            else:
                found.append((compared, steps))
        if not found:
            return
        worst, steps = max(found, key=lambda pair: pair[0].error)
        yield {"yardstick_error": worst.error, "yardstick_precision": worst.precision}
        if not worst.wrong:
            return
        through = "the whole window" if steps == whole else f"the last {steps} steps" if steps > 1 else "the last step"
        words = (
            f"differentiated through {through}, it differs from finite differences of plain training by {worst.error:.2g} of its norm; "
            f"{worst.direction} its slope is {worst.reverse:.6g} by reverse mode and {worst.plain:.6g} by plain training"
        )
        if not getattr(instance, "stops_gradients", False):
            raise MetabenchError(f"the exact hypergradient that errors are measured against is wrong: {words}")
        missing.append(f"the problem stops gradients on purpose, so plain training has another derivative: {words}")


def _steps_through(target: Target, options: Any, window: Window) -> int | None:
    """Return the number of last inner steps that a target goes through; None if it is not a derivative of plain training."""
    whole = len(window.inner)
    if target is Target.TRUNCATED:
        return min(options.steps, whole)
    return {Target.UNROLLED: whole, Target.ONE_STEP: 1}.get(target)


def _differ(left: Tree, right: Tree) -> bool:
    return any(not torch.equal(leaf, right[name]) for name, leaf in left.items())


def _plain(instance: Problem, state: InnerState, meta: Tree, window: Window) -> InnerState:
    """Return the inner state after the window, without a hypergradient."""
    return run(instance, begun(instance, state, meta), meta, window.inner)


def _outer_update(instance: Problem, meta: Tree) -> Callable[[Tree, Tree], Tree]:
    """Return the function from a hypergradient and the meta-parameters to the next ones; it keeps the outer optimiser's state.

    The pure optimisers serve here too: the first use of torch.optim imports the compiler, which costs 1.7 s per cell.
    """
    settings = instance.outer_optimiser
    if settings.name == "Adam":
        optimiser: InnerOptimiser = Adam(settings.learning_rate, weight_decay=settings.weight_decay)
    else:
        optimiser = Momentum(settings.learning_rate, settings.momentum, settings.nesterov, settings.weight_decay)
    state = optimiser.init(meta)

    def move(hypergradient: Tree, current: Tree) -> Tree:
        nonlocal state
        with torch.no_grad():
            moved, state = optimiser.update(hypergradient, current, state, current)
        return moved

    return move


class Comparison(NamedTuple):
    """A hypergradient compared with an exact one: cosine, ratio of norms, and norm of the difference over the exact norm."""

    cosine: float
    norm_ratio: float
    error: float


def _compare(found: Tree, exact: Tree) -> Comparison:
    size, exact_size = float(tree.norm(found)), float(tree.norm(exact))
    cosine = float(tree.dot(found, exact)) / (size * exact_size) if size > 0 else 0.0
    return Comparison(cosine, size / exact_size, float(tree.norm(tree.subtract(found, exact))) / exact_size)


def _summary(prefix: str, samples: list[Comparison]) -> Row:
    return {f"{prefix}_{name}": statistics.fmean(getattr(one, name) for one in samples) for name in Comparison._fields}


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
