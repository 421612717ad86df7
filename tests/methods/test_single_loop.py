"""The single-loop method equals its dense recursion over moving windows, tends to the implicit hypergradient, and keeps v between runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, relative_error
from small_problems import LearningRates, Ridge, Tanh

from metabench.autodiff.optimisers import Adam, inner_optimiser
from metabench.certify.references import expand
from metabench.core import Diverged, InnerState, Keeps, MetabenchError, Problem, Tree, Unsupported, Window, tree
from metabench.core.randomness import generator
from metabench.measure.memory.meter import measure_memory
from metabench.methods import method
from metabench.training.loop import Answered, train
from metabench.training.run import Run


def dense(problem: Problem, at: tuple[Tree, Tree, Window], v: torch.Tensor, decay: float, own: bool) -> tuple[torch.Tensor, Any]:
    """Return H v - dF/dw, and the function from v to dF/dl - J v, at a point."""
    params, meta, window = at
    outer = window.outer[-1]
    assert outer is not None
    of = expand(problem, params, meta, window.inner[-1], outer, decay)
    apart = expand(problem, params, meta, window.inner[-2 if own else -1], outer, decay)
    return of.hessian @ v - of.outer_w, lambda value: apart.outer_l - apart.mixed @ value


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("batches", "momentum"), [("last", 0.0), ("own", 0.0), ("last", 0.6), ("own", 0.9)])
def test_it_is_its_recursion_over_windows_that_move(batches: str, momentum: float, decay: float) -> None:
    problem: Problem = Tanh("momentum", inner_steps=3)
    problem.optimiser = inner_optimiser("momentum", 0.05, decay)
    state, meta, _ = checkpoint(problem)
    windows, own = problem.windows(), batches == "own"
    v = before = torch.zeros(tree.count(state.params), dtype=torch.float64)
    last: tuple[Tree, Tree] | None = None
    step = estimate = torch.zeros(())
    for _ in range(5):
        window = next(windows)[0]
        found = call("single_loop", problem, state, meta, window, rate=0.2, batches=batches, momentum=momentum)
        at = (found.state.params, meta, window)
        direction, share = dense(problem, at, v, decay, own)
        there = None
        if momentum and last is not None:
            # Where the last window was, on the batches of this one.
            old, there = dense(problem, (*last, window), before, decay, own)
            direction = direction + momentum * (step - old)
        moved = v - 0.2 * direction
        value = share(moved)
        if there is not None:
            value = value + momentum * (estimate - there(v))
        assert relative_error(found.meta, tree.unflatten(value, meta)) <= 1e-10
        assert relative_error(found.state.memory["adjoint"], tree.unflatten(moved, state.params)) <= 1e-10
        v, before, step, estimate, last = moved, v, direction, value, (found.state.params, meta)
        state, meta = found.state, tree.add_scaled(meta, -0.1, found.meta)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}])
def test_while_l_is_still_it_tends_to_the_implicit_hypergradient(options: dict[str, float]) -> None:
    problem = Ridge(4, inner_steps=2)
    problem.optimiser = inner_optimiser("sgd", 1e-12)
    state, meta, window = checkpoint(problem)
    at = expand(problem, state.params, meta, window.inner[-1], window.outer[-1], 0.0)
    exact = tree.unflatten(at.implicit(torch.linalg.solve(at.hessian, at.outer_w)), meta)
    first = None
    for _ in range(300):
        found = call("single_loop", problem, state, meta, window, rate=1.8 / (at.curvature.largest + at.curvature.smallest), **options)
        first = first or found
        state = found.state
    assert first is not None and relative_error(first.meta, exact) > 0.1
    assert relative_error(found.meta, exact) <= 1e-8
    assert found.diagnostics["solver_residual"] <= 1e-8


def test_on_one_batch_it_is_a_neumann_step_with_a_warm_start() -> None:
    problem = Tanh(inner_steps=1)
    state, meta, window = checkpoint(problem)
    ours, theirs = state, state
    for _ in range(4):
        mine = call("single_loop", problem, ours, meta, window, rate=0.3)
        # Its first call begins with the first term of the series: no step at all.
        other = call("ift_neumann", problem, theirs, meta, window, scale=0.3, steps=int(bool(theirs.memory)), warm_start=True)
        assert relative_error(mine.meta, other.meta) <= 1e-12
        ours, theirs = mine.state, other.state


class Restarting(Tanh):
    """Every window begins an inner run anew, at the same parameters, and the learning rate is zero but for rounding."""

    def windows(self) -> Any:
        for (window,) in super().windows():
            begins = self._first if hasattr(self, "_first") else window.begins
            self._first = begins
            yield [dataclasses.replace(window, begins=begins)]


def norms_of_memory(name: str) -> list[float]:
    problem, chosen = Restarting(inner_steps=2), method(name)
    run = Run.fresh(problem, generator(0, "training"))
    events = train(problem, chosen, chosen.options(), run, 4)
    return [
        float(tree.norm(event.hypergradient.state.memory["adjoint"])) for event in events if isinstance(event, Answered)
    ]


def test_v_outlives_an_inner_run_and_forgets_where_the_method_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert method("single_loop").keeps is Keeps.META_RUN
    kept = norms_of_memory("single_loop")
    assert max(kept) > 1.5 * kept[0]
    # The same method, which forgets where a run begins: v is never more than one step.
    forgetful = dataclasses.replace(method("single_loop"), keeps=Keeps.INNER_RUN)
    monkeypatch.setitem(globals(), "method", lambda name: forgetful)
    forgotten = norms_of_memory("single_loop")
    assert max(forgotten) < 1.2 * forgotten[0]


def test_every_task_has_its_own_memory() -> None:
    """What a place in the list of tasks keeps is what it would keep alone."""
    problem, chosen = Restarting(inner_steps=2), method("single_loop")
    plain = problem.windows

    def twice() -> Any:
        for (window,) in plain():
            yield [window, dataclasses.replace(window, inner=window.inner[::-1])]

    problem.windows = twice  # type: ignore[method-assign]
    run = Run.fresh(problem, generator(0, "training"))
    for _ in train(problem, chosen, chosen.options(), run, 3):
        pass
    one, other = (run.tasks[task].memory["adjoint"] for task in range(2))
    assert not all(torch.equal(leaf, other[name]) for name, leaf in one.items())


def test_its_memory_is_flat_in_inner_steps() -> None:
    peaks = []
    for steps in (4, 64):
        problem = Tanh(inner_steps=steps)
        state, meta, window = checkpoint(problem)
        arguments = (state.params, state.optimiser, meta, window.inner, window.outer)
        call("single_loop", problem, state, meta, window)
        found = measure_memory(lambda: call("single_loop", problem, state, meta, window), arguments, "cpu")[1]  # noqa: B023
        peaks.append(found.dynamic_bytes)
    assert peaks[1] <= 1.02 * peaks[0]


def test_what_it_cannot_answer_is_refused() -> None:
    problem: Problem = LearningRates()
    with pytest.raises(Unsupported, match="meta-parameters enter the inner update"):
        call("single_loop", problem, *checkpoint(problem))
    problem = Tanh("adam")
    problem.optimiser = Adam(0.02, weight_decay=0.1, decoupled=True)
    with pytest.raises(Unsupported, match="decoupled"):
        call("single_loop", problem, *checkpoint(problem))
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    with pytest.raises(Diverged, match="v is not finite after a step of rate 1e\\+308"):
        call("single_loop", problem, call("single_loop", problem, state, meta, window, rate=1e308).state, meta, window, rate=1e308)
    foreign = InnerState(state.params, state.optimiser, {"penalised": state.params})
    with pytest.raises(MetabenchError, match="the memory holds 'penalised', and no 'adjoint': it is that of another method"):
        call("single_loop", problem, foreign, meta, window)
    wider = {name: torch.zeros(7, dtype=leaf.dtype) for name, leaf in state.params.items()}
    with pytest.raises(MetabenchError, match="the memory 'adjoint' is of another model"):
        call("single_loop", problem, dataclasses.replace(foreign, memory={"adjoint": wider}), meta, window)
    plain = call("single_loop", problem, state, meta, window).state
    with pytest.raises(MetabenchError, match="or of other options"):
        call("single_loop", problem, plain, meta, window, momentum=0.5)
