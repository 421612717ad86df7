"""Conditions for a problem's hypergradient to be meaningful; each violation is reported in terms of the problem's code.

`well_posed` is the stage with which every kind of experiment begins.

Parameters and meta-parameters are tensors of real numbers; both losses are finite scalars and functions of their arguments; the
meta-parameters enter where the problem says that they do; and the outer loss depends on every one of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from metabench.autodiff.inner import begin, begun, check_finite, leaves_of, recorded_step, step
from metabench.autodiff.optimisers import (
    SGD,
    Adam,
    Momentum,
    PerParameter,
    Rate,
    RMSprop,
    Scheduled,
    counts_steps,
    rate_at,
    scheduled,
)
from metabench.autodiff.recorded import check_recorded
from metabench.core import tree
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.lazy import torch
from metabench.core.problem import MetaRole, Problem
from metabench.core.schedules import schedule_text
from metabench.core.segments import LOSS, Segment
from metabench.core.types import Batch, InnerState, Tree, Window
from metabench.measure.outcome import outcome
from metabench.stages.inner_update import check_update
from metabench.stages.subject import PRECISE, Row, Subject

_STEPS_CHECKED = 200
"""Most steps of a run at which a learning rate is looked at."""

_WINDOWS_SEEN = 8
"""Outer steps within whose windows another inner run begins, unless one run goes through all of them."""

_WORDS = {
    MetaRole.INNER_LOSS: "the inner loss",
    MetaRole.OUTER_LOSS: "the outer loss",
    MetaRole.UPDATE: "the inner update",
    MetaRole.START: "the start of the inner run",
}


_LOOKED_THROUGH = 4
"""Outer steps within whose windows a meta-parameter must reach the outer loss."""


SIZES = ("batch", "n_params", "n_meta", "outer_optimiser")
"""The columns of `well_posed`, which every kind of experiment may fill."""


def well_posed(subject: Subject) -> Iterator[Row]:
    """Raise what is wrong with the problem, before anything is measured on it; yield its sizes.

    Raises: as `check_trees`, `check_rates`, `check_losses`, `check_reach` and, for the first seed of a small problem, `check_update` and
        `check_derivatives`.
    """
    problem = subject.problem
    state, meta = problem.initial_state()
    check_trees(state, meta)
    settings = subject.measure
    check_rates(problem, state, meta, max(subject.outer_steps, settings["checkpoint"] + settings["error_windows"], 1))
    windows = itertools.chain.from_iterable(itertools.islice(problem.window_lists(), _LOOKED_THROUGH))
    first = next(windows)
    try:
        check_losses(problem, state, meta, first)
        check_reach(problem, state, meta, itertools.chain([first], windows))
        if subject.first and tree.count(state.params) <= subject.measure["error_max_params"]:
            check_update(problem.optimiser, state, meta)
            precise = subject.make(PRECISE)
            check_derivatives(precise, *precise.initial_state(), next(precise.windows())[0])
    except Exception as error:
        # One inner step is recorded here. A method that needs less memory than that is not to fail for it.
        if outcome(error)[0] != "oom":
            raise
    yield {
        "batch": problem.batch,
        "n_params": tree.count(state.params),
        "n_meta": tree.count(meta),
        "outer_optimiser": problem.outer_optimiser.text(),
    }


def check_trees(state: InnerState, meta: Tree) -> None:
    """Raise MetabenchError if a parameter, a meta-parameter or the inner optimiser's state cannot be differentiated."""
    slots = [(f"the inner optimiser's '{slot}'", leaves) for slot, leaves in state.optimiser.items()]
    for what, leaves in [("parameter", state.params), ("meta-parameter", meta), *slots]:
        if not isinstance(leaves, dict) or (not leaves and not what.startswith("the")):
            raise MetabenchError(f"{what}s: expected a dict of tensors by name, with one or more, got {leaves!r}")
        for name, leaf in leaves.items():
            if not isinstance(leaf, torch.Tensor):
                raise MetabenchError(f"{what} '{name}' is a {type(leaf).__name__}, expected a tensor")
            if not leaf.is_floating_point():
                raise MetabenchError(
                    f"{what} '{name}' is of {leaf.dtype}, in which there is no derivative: "
                    "put constants, indices and masks into the batch, and convert counts to the dtype of the parameters"
                )


def check_rates(problem: Problem, state: InnerState, meta: Tree, outer_steps: int) -> None:
    """Check the learning rates of a run of `outer_steps` meta-updates at the initial meta-parameters: at most 200 steps, spread evenly.

    Raises:
        MetabenchError: the inner or the outer learning rate is negative or not finite at one of its steps.
    """
    like = next(iter(state.params.values()))
    optimiser = problem.optimiser
    if isinstance(optimiser, SGD | Momentum | Adam | RMSprop):
        steps = _longest_run(problem, outer_steps) if counts_steps(optimiser.learning_rate) else 1
        check_rate("inner", optimiser.learning_rate, tree.detach(meta), steps, like)
    settings = problem.outer_optimiser
    outer = scheduled(settings.learning_rate, settings.schedule)
    check_rate("outer", outer, {}, outer_steps if counts_steps(outer) else 1, next(iter(meta.values())))


def check_losses(problem: Problem, state: InnerState, meta: Tree, window: Window) -> None:
    """Check both losses at the start of the window's inner run: two evaluations of each, and no derivative.

    Raises:
        MetabenchError: a loss is not a scalar, is detached from the parameters, is not a function of its arguments, or its use of
            meta-parameters contradicts the problem's roles.
        Diverged: a parameter or a loss is not finite.
    """
    check_values(problem, state, meta, window)
    _check_roles(problem, state, meta, window)
    _check_start_only(problem, state, meta, window)


def check_values(problem: Problem, state: InnerState, meta: Tree, window: Window) -> None:
    """Check the same without regard to the problem's roles."""
    meta = tree.detach(meta)
    start = begun(problem, state, meta)
    check_finite(start)
    outer = next(batch for batch in window.outer if batch is not None)
    for what, loss, batch in (
        (_WORDS[MetaRole.INNER_LOSS], problem.inner_loss, window.inner[0]),
        (_WORDS[MetaRole.OUTER_LOSS], problem.outer_loss, outer),
    ):
        _check_loss(what, loss, start.params, meta, batch)
        segments = problem.inner_segments() if loss == problem.inner_loss else problem.outer_segments()
        _check_segments(what, segments, loss, start.params, meta, batch)


def check_derivatives(problem: Problem, state: InnerState, meta: Tree, window: Window) -> None:
    """Raise MetabenchError if a loss's recorded derivative is not that of its values, unless the problem declares `stops_gradients`.

    Only in float64; other dtypes are not checked. See `metabench.autodiff.recorded`.
    """
    if problem.stops_gradients:
        return
    meta = tree.detach(meta)
    start = begun(problem, state, meta)
    outer = next(batch for batch in window.outer if batch is not None)
    check_recorded(_WORDS[MetaRole.INNER_LOSS], problem.inner_loss, start.params, meta, window.inner[0])
    check_recorded(_WORDS[MetaRole.OUTER_LOSS], problem.outer_loss, start.params, meta, outer)


def check_reach(problem: Problem, state: InnerState, meta: Tree, windows: Iterable[Window]) -> None:
    """Raise MetabenchError if the outer loss depends on a meta-parameter neither directly nor through any inner step of `windows`.

    One inner step is recorded at a time, and its graph is traversed, not evaluated, so operations without a second derivative are
    allowed. Only what the first step does not reach is searched for in later steps.
    """
    missing = set(meta)
    watched = tree.leaves_for_grad(meta)
    seen = 0
    for window in windows:
        seen += 1
        for outputs in _dependent(problem, state, watched, window):
            missing -= _reached(outputs, {name: watched[name] for name in missing})
            if not missing:
                return
    name = next(name for name in meta if name in missing)
    declared = " and ".join(_WORDS[role] for role in MetaRole if role in problem.roles) or "nothing"
    raise MetabenchError(
        f"the outer loss does not depend on the meta-parameter '{name}', declared to enter {declared}: neither directly nor through an "
        f"inner step of the first {'window' if seen == 1 else f'{seen} windows'}; its hypergradient would always be zero"
    )


def _longest_run(problem: Problem, outer_steps: int) -> int:
    """Return the inner steps of a run: up to where one of the first windows begins another, or else those of all windows."""
    steps = each = 0
    for seen, tasks in enumerate(itertools.islice(problem.windows(), min(outer_steps, _WINDOWS_SEEN))):
        if seen and tasks[0].begins is not None:
            return steps
        each = len(tasks[0].inner)
        steps += each
    return max(steps, each * outer_steps)


def check_rate(which: str, rate: Rate, meta: Tree, steps: int, like: torch.Tensor) -> None:
    """Raise MetabenchError if a rate is none, or is negative or not finite at one of `steps` steps; of many, 200 are looked at."""
    if isinstance(rate, PerParameter):
        return
    if not counts_steps(rate):
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < math.inf:
            raise MetabenchError(
                f"the {which} optimiser's learning rate is {rate!r}: expected a finite number of at least 0, or a function (meta, step)"
            )
        return
    name = schedule_text(rate.schedule) if isinstance(rate, Scheduled) else schedule_text(rate)
    for place in torch.linspace(0, steps - 1, min(steps, _STEPS_CHECKED), dtype=torch.float64).round().tolist():
        with torch.no_grad():
            value = rate_at(rate, meta, torch.tensor(place, dtype=like.dtype, device=like.device))
        for leaf in value.values() if isinstance(value, dict) else [torch.as_tensor(value)]:
            wrong = leaf[~(leaf.isfinite() & (leaf >= 0))]
            if wrong.numel():
                raise MetabenchError(
                    f"the {which} optimiser's schedule '{name}' gives a learning rate of {float(wrong[0]):g} at step {place:.0f} of "
                    f"{steps}: expected a finite number of at least 0"
                )


def _check_loss(what: str, loss: Callable[..., Any], params: Tree, meta: Tree, batch: Batch) -> None:
    before = _global_streams()
    with torch.enable_grad():
        value = loss(tree.leaves_for_grad(params), meta, batch)
    if not isinstance(value, torch.Tensor):
        raise MetabenchError(f"{what} is a {type(value).__name__}, expected a tensor: a number has no derivative")
    if value.dim():
        raise MetabenchError(
            f"{what} has the shape {tuple(value.shape)}, expected a scalar, shape (): take its mean or sum"
        )
    if not value.is_floating_point():
        raise MetabenchError(f"{what} is of {value.dtype}, in which there is no derivative")
    if what == _WORDS[MetaRole.INNER_LOSS] and not value.requires_grad:
        raise MetabenchError(
            f"{what} does not depend on the parameters: are they detached, or turned into numbers, on the way?"
        )
    first = float(value.detach())
    if not math.isfinite(first):
        raise Diverged(f"{what} is {first} at the start")
    with torch.no_grad():
        second = float(loss(params, meta, batch))
    # Without a graph another kernel may be taken, and on CUDA sums may be taken in another order: that is rounding, not randomness.
    if abs(first - second) > math.sqrt(torch.finfo(value.dtype).eps) * max(abs(first), abs(second)):
        raise MetabenchError(
            f"{what} is not a function of its arguments: {first:g}, then {second:g} at the same ones; {_INSTEAD}"
        )
    if any(not torch.equal(one, other) for one, other in zip(before, _global_streams(), strict=True)):
        raise MetabenchError(
            f"{what} is not a function of its arguments: it draws from torch's global random numbers; {_INSTEAD}"
        )


def _check_segments(
    what: str, segments: Sequence[Segment], loss: Callable[..., Any], params: Tree, meta: Tree, batch: Batch
) -> None:
    """Raise MetabenchError if a chain of segments differs from the loss that it represents."""
    if not segments:
        return
    hidden: Tree = {}
    with torch.no_grad():
        whole = loss(params, meta, batch)
        for segment in segments:
            given = [*hidden.values(), *params.values(), *(leaf for leaf in batch.values())]
            versions = [leaf._version for leaf in given]
            hidden = segment(params, meta, batch, hidden)
            if versions != [leaf._version for leaf in given]:
                raise MetabenchError(
                    f"{segment.name} of {what} writes to one of its inputs: recomputed in the backward pass, it would have another "
                    "value; write x = x + y instead of x += y"
                )
        chain = hidden[LOSS]
    if not torch.allclose(chain, whole, rtol=math.sqrt(torch.finfo(whole.dtype).eps), atol=0):
        raise MetabenchError(
            f"{what} is {float(whole):g}, its chain of segments gives {float(chain):g}: they must be the same loss; does a class that "
            "changes the one inherit the other?"
        )


_INSTEAD = (
    "instead of dropout and other noise draw it into the batch, instead of running statistics use LayerNorm, GroupNorm or the "
    "statistics of the batch"
)


def _global_streams() -> list[torch.Tensor]:
    on_device = [torch.cuda.get_rng_state()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *on_device]


def roles_read(
    problem: Problem, state: InnerState, meta: Tree, window: Window, enough: frozenset[MetaRole]
) -> frozenset[MetaRole]:
    """Return the roles in which the meta-parameters are read at the start of the window's inner run.

    Batches after the first are looked at only while a role of `enough` is missing.
    """
    watched = tree.leaves_for_grad(meta)
    start = begun(problem, state, meta)
    slope = tree.zeros_like(start.params)

    def evaluations() -> Iterator[tuple[MetaRole, Iterable[torch.Tensor]]]:
        yield MetaRole.START, problem.start(tree.detach(state.params), watched).values()
        updated, _ = problem.optimiser.update(slope, start.params, start.optimiser, watched)
        yield MetaRole.UPDATE, updated.values()
        for inner, outer in zip(window.inner, window.outer, strict=True):
            yield MetaRole.INNER_LOSS, [problem.inner_loss(start.params, watched, inner)]
            if outer is not None:
                yield MetaRole.OUTER_LOSS, [problem.outer_loss(start.params, watched, outer)]

    found: set[MetaRole] = set()
    tried: set[MetaRole] = set()
    with torch.enable_grad():
        for role, outputs in evaluations():
            tried.add(role)
            # Nothing but the meta-parameters asks for a derivative here.
            if any(output.requires_grad for output in outputs):
                found.add(role)
            if tried == set(MetaRole) and enough <= found:
                break
    return frozenset(found)


def _check_roles(problem: Problem, state: InnerState, meta: Tree, window: Window) -> None:
    """Raise MetabenchError if the meta-parameters enter where they are not declared, or do not enter where they are."""
    found = roles_read(problem, state, meta, window, problem.roles)
    for role in MetaRole:
        if role in found and role not in problem.roles:
            raise MetabenchError(
                f"{_WORDS[role]} reads meta-parameters, and the problem's roles do not say so: add MetaRole.{role.name}"
            )
        if role in problem.roles and role not in found:
            raise MetabenchError(
                f"the problem's roles say MetaRole.{role.name}, and {_WORDS[role]} does not depend on any meta-parameter: "
                "are they detached on the way?"
            )


def _check_start_only(problem: Problem, state: InnerState, meta: Tree, window: Window) -> None:
    """Raise MetabenchError unless `start_only` names the meta-parameters that the start reads, and neither a loss nor the update."""
    if MetaRole.START not in problem.roles or problem.roles == {MetaRole.START}:
        return
    watched = tree.leaves_for_grad(meta)
    start = begun(problem, state, meta)
    with torch.enable_grad():
        begins = _reached(problem.start(tree.detach(state.params), watched).values(), watched)
        updated, _ = problem.optimiser.update(tree.zeros_like(start.params), start.params, start.optimiser, watched)
        due = next(batch for batch in window.outer if batch is not None)
        losses = [
            problem.inner_loss(start.params, watched, window.inner[0]),
            problem.outer_loss(start.params, watched, due),
        ]
        elsewhere = _reached([*updated.values(), *losses], watched)
    found = begins - elsewhere
    if found != problem.start_only:
        raise MetabenchError(
            f"the problem says that only the start reads {sorted(problem.start_only)}, and it alone reads {sorted(found)}: set `start_only`"
        )


def _dependent(problem: Problem, state: InnerState, meta: Tree, window: Window) -> Iterator[list[torch.Tensor]]:
    """Yield what may carry the meta-parameters into the outer loss, the most likely first.

    The outer loss after one recorded step, then the inner state after each of the window's steps, each recorded alone.
    """
    due = next(batch for batch in window.outer if batch is not None)
    with torch.enable_grad():
        after = recorded_step(problem, begin(problem, state, meta), meta, window.inner[0])
        yield [problem.outer_loss(after.params, meta, due)]
        del after
    current = begun(problem, state, meta)
    for inner, outer in zip(window.inner, window.outer, strict=True):
        with torch.enable_grad():
            after = recorded_step(problem, current, meta, inner)
            outputs = [leaf for leaves in leaves_of(after) for leaf in leaves.values()]
            yield outputs if outer is None else [*outputs, problem.outer_loss(after.params, meta, outer)]
            del after, outputs
        current = step(problem, current, tree.detach(meta), inner)


def _reached(outputs: Iterable[torch.Tensor], leaves: Tree) -> set[str]:
    """Return the names of the leaves that the graph of `outputs` leads to."""
    names = {id(leaf): name for name, leaf in leaves.items()}
    found = {names[id(output)] for output in outputs if id(output) in names}
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    visited = set(waiting)
    while waiting:
        node = waiting.pop()
        # A leaf's node keeps the leaf.
        if (leaf := getattr(node, "variable", None)) is not None and id(leaf) in names:
            found.add(names[id(leaf)])
        for following, _ in node.next_functions:
            if following is not None and following not in visited:
                visited.add(following)
                waiting.append(following)
    return found
