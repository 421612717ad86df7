"""Memory and time of one hypergradient, at the checkpoint that all methods share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from metabench.core import tree
from metabench.core.checks import check_hypergradient, non_finite
from metabench.core.errors import Diverged
from metabench.core.method import Hypergradient
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window
from metabench.measure.clock import time_call
from metabench.measure.device import measured_device, synchronise
from metabench.measure.memory.meter import measure_memory
from metabench.stages.subject import Row, Subject


def checkpoint_call(subject: Subject) -> tuple[Callable[[], Hypergradient], Problem, InnerState, Tree, Window]:
    """Return the call that is measured, and what it is given: the problem, the state, the meta-parameters and the window."""
    meta = subject.problem.initial()
    problem, state, window = next(subject.from_checkpoint(subject.problem, meta))
    stream = subject.stream("cost")

    def call() -> Hypergradient:
        return subject.hypergradient(problem, state, meta, window, stream)

    return call, problem, state, meta, window


def cost(subject: Subject) -> Iterator[Row]:
    """Yield the columns of memory and time, the digest of the hypergradient and diagnostics; none of time without `time_repeats`.

    Raises:
        Diverged: the hypergradient is not finite; its cost is yielded first.
        MetabenchError: the method returned something else than a hypergradient.
    """
    call, problem, state, meta, window = checkpoint_call(subject)
    subject.tell("first call")
    begun = time.perf_counter()
    found = call()
    synchronise(measured_device(subject.device))
    if subject.first:
        yield {"first_call_s": time.perf_counter() - begun}
    check_hypergradient(found, state, meta)
    lost = non_finite(found)
    yield {"hypergradient_digest": tree.digest(found.meta)}
    yield {"diagnostics": dict(found.diagnostics)} if found.diagnostics else {}
    del found

    subject.tell("memory")
    arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
    _, memory = measure_memory(call, arguments, subject.device, subject.limit_bytes)
    yield {
        "peak_bytes": memory.peak_bytes,
        "static_bytes": memory.static_bytes,
        "dynamic_bytes": memory.dynamic_bytes,
        "memory_source": memory.source,
    }

    settings = subject.measure
    if settings["time_repeats"]:
        subject.tell("time")
        timing = time_call(call, subject.device, repeats=settings["time_repeats"], budget_s=settings["time_budget"])
        yield {
            "time_median_s": timing.median_s,
            "time_q1_s": timing.q1_s,
            "time_q3_s": timing.q3_s,
            "time_repeats": timing.repeats,
        }
    if problem.inner_segments():
        # Here: few problems have segments, and the others need not import what counts their memory.
        from metabench.autodiff.traced.memory_floor import mixed_mode_floor

        yield {"floor_bytes": mixed_mode_floor(problem, state, meta, window)}
    if lost:
        raise Diverged(f"{lost} at the checkpoint")
