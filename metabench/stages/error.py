"""The error of a method's hypergradient, in float64, at the checkpoint that all methods share."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from metabench.autodiff.exact import exact_target
from metabench.core import tree
from metabench.core.errors import MESSAGE_LENGTH, MetabenchError, TimeLimit
from metabench.core.lazy import torch
from metabench.core.method import Target
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree, Window
from metabench.measure.outcome import outcome
from metabench.measure.yardstick import Disagreement, Unsettled, disagreement
from metabench.stages.subject import PRECISE, Row, Subject


def error(subject: Subject) -> Iterator[Row]:
    """Yield cosine, ratio of norms and relative error against the exact hypergradient and the method's own target.

    Where there is no exact hypergradient, a message says why.

    Raises:
        MetabenchError: the exact hypergradient is not the derivative of plain training, so errors measured against it are meaningless.
    """
    settings = subject.measure
    if not settings["error_windows"] or subject.method.target is Target.NONE:
        return
    precise = subject.make(PRECISE)
    meta = precise.initial()
    windows = subject.from_checkpoint(precise, meta)
    stream = subject.stream("error")
    draws = settings["error_draws"] if subject.method.stochastic else 1
    against: dict[str, list[list[Comparison]]] = {"hypergradient": [], "target": []}
    means: dict[str, list[Comparison]] = {"hypergradient": [], "target": []}
    missing: list[str] = []
    for done in range(settings["error_windows"]):
        subject.tell("error", done, settings["error_windows"])
        problem, state, window = next(windows)
        if tree.count(state.params) > settings["error_max_params"]:
            yield {"message": f"no exact hypergradient: more than {settings['error_max_params']} inner parameters"}
            return
        try:
            exact = exact_target(Target.UNROLLED, problem, state, meta, window, subject.options)
            own = (
                exact
                if subject.method.target is Target.UNROLLED
                else exact_target(subject.method.target, problem, state, meta, window, subject.options)
            )
        except TimeLimit:
            raise
        except Exception as error:  # the yardstick failed, not the method: the row says so and keeps its figures
            yield {"message": f"no exact hypergradient: {outcome(error)[1]}"[:MESSAGE_LENGTH]}
            return
        if done == 0 and exact is not None:
            yield from _yardstick(subject, problem, state, meta, window, exact, own, missing)
        found = [subject.hypergradient(problem, state, meta, window, stream).meta for _ in range(draws)]
        for prefix, reference in (("hypergradient", exact), ("target", own)):
            if reference is not None and float(tree.norm(reference)) > 0:
                against[prefix].append([compare(one, reference) for one in found])
                means[prefix].append(compare(tree.mean(found), reference))
    for prefix, compared in against.items():
        if compared:
            yield _summary(prefix, [one for window_draws in compared for one in window_draws])
        if compared and subject.method.stochastic:
            cosines = [one.cosine for window_draws in compared for one in window_draws]
            yield {
                f"{prefix}_cosine_sd": statistics.stdev(cosines) if len(cosines) > 1 else None,
                f"{prefix}_mean_cosine": statistics.fmean(one.cosine for one in means[prefix]),
            }
    yield {"hypergradient_samples": sum(len(window_draws) for window_draws in against["hypergradient"])}
    if not against["target"]:
        missing.append(f"the exact value of its own target, {subject.method.target.value}, is out of reach here")
    if missing:
        yield {"message": "; ".join(missing)[:MESSAGE_LENGTH]}


def _yardstick(
    subject: Subject,
    problem: Problem,
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
    last = _steps_through(subject.method.target, subject.options, window)
    if own is not None and last is not None and (last < whole or _differ(own, exact)):
        references.append((own, last))
    seconds = subject.check_seconds / len(references)
    found: list[tuple[Disagreement, int]] = []
    for done, (reference, steps) in enumerate(references):
        subject.tell("finite differences", done, len(references))
        stream = subject.stream("yardstick")
        try:
            compared = disagreement(problem, state, meta, window, reference, stream, steps=steps, seconds=seconds)
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
    if not getattr(problem, "stops_gradients", False):
        raise MetabenchError(f"the exact hypergradient that errors are measured against is wrong: {words}")
    missing.append(f"the problem stops gradients on purpose, so plain training has another derivative: {words}")


def _steps_through(target: Target, options: Any, window: Window) -> int | None:
    """Return the number of last inner steps that a target goes through; None if it is not a derivative of plain training."""
    whole = len(window.inner)
    if target is Target.TRUNCATED:
        return min(options.steps, whole)
    return {Target.UNROLLED: whole, Target.CARRIED: whole, Target.ONE_STEP: 1}.get(target)


def _differ(left: Tree, right: Tree) -> bool:
    return any(not torch.equal(leaf, right[name]) for name, leaf in left.items())


class Comparison(NamedTuple):
    """A hypergradient compared with an exact one: cosine, ratio of norms, and norm of the difference over the exact norm."""

    cosine: float
    norm_ratio: float
    error: float


def compare(found: Tree, exact: Tree) -> Comparison:
    """Return how a hypergradient compares with an exact one that is not zero."""
    size, exact_size = float(tree.norm(found)), float(tree.norm(exact))
    cosine = float(tree.dot(found, exact)) / (size * exact_size) if size > 0 else 0.0
    return Comparison(cosine, size / exact_size, float(tree.norm(tree.subtract(found, exact))) / exact_size)


def _summary(prefix: str, samples: list[Comparison]) -> Row:
    return {f"{prefix}_{name}": statistics.fmean(getattr(one, name) for one in samples) for name in Comparison._fields}
