"""Meta-training with a method, and the quality of what it leads to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from metabench.autodiff.inner import check_finite
from metabench.core import tree
from metabench.core.curves import Curve, sound_curves
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.pictures import Picture, sound_pictures
from metabench.core.problem import Problem
from metabench.core.types import InnerState, Tree
from metabench.stages.episode import trained_episode
from metabench.stages.subject import Row, Subject
from metabench.training import interruption
from metabench.training.loop import LOG, UNITS, Updated, train
from metabench.training.record import checked
from metabench.training.run import Run


def quality(subject: Subject) -> Iterator[Row]:
    """Yield the columns of quality, and the run's curves: where the run fails, as far as it went.

    Raises:
        Diverged: the run, the meta-parameters or the metric are not finite.
        MetabenchError: there is no outer step, or the problem returns something else than it has to.
    """
    problem, steps = subject.problem, subject.outer_steps
    if steps < 1:
        raise MetabenchError(f"{steps} outer steps train nothing: expected 1 or more")
    saved, stream = subject.checkpoint, subject.stream("training")
    run, note = saved.resume(problem, stream) if saved else (Run.fresh(problem, stream), "")
    subject.tell("training", run.step, steps)
    training = train(problem, subject.method, subject.options, run, steps, saved, subject.curve)
    with interruption.saving() if saved else contextlib.nullcontext(), contextlib.closing(training) as events:
        try:
            for event in events:
                if isinstance(event, Updated):
                    subject.tell("training", event.step, steps)
        except Exception:
            yield _curves(run.record.curves(UNITS, LOG), note)
            raise
    if run.step < steps:
        best = f"was best after {run.best.step}" if run.best is not None else "was never finite"
        note = "; ".join(filter(None, (note, f"stopped after {run.step} of {steps} meta-updates: validation {best}")))
    followed = run.record.curves(UNITS, LOG)
    kept = _curves(followed, note)
    yield kept
    params, meta = run.outcome(problem)
    metrics, evaluated, shown = evaluation(problem, params, meta)
    taken = "; ".join(
        f"no curve '{name}' of evaluate(): the run has one of that name" for name in evaluated if name in followed
    )
    more = _curves({name: curve for name, curve in evaluated.items() if name not in followed}, taken, shown)
    yield more | {"curves": kept["curves"] | more["curves"]}
    yield _at_answer(problem, run.answered(problem), meta)
    yield {
        "quality": decisive(problem, metrics, meta),
        "metrics": metrics,
        "outer_loss": run.outer_loss,
        "validation_loss": run.late_loss(problem),
        "meta_summary": {name: float(value) for name, value in problem.summary(meta).items()},
        "resumed": run.resumed,
        "train_s": run.seconds,
        "data_s": run.data_seconds,
    }
    yield trained_episode(subject, meta)
    subject.keep(problem, meta)


def _at_answer(problem: Problem, answer: Tree | None, meta: Tree) -> Row:
    """Return the metrics at the parameters that the method itself proposes; a message where they are not finite."""
    if answer is None:
        return {}
    try:
        return {"metrics_answer": evaluation(problem, answer, meta)[0]}
    except Diverged as error:
        return {"message": f"no metrics at the method's own answer: {error}"}


def evaluation(
    problem: Problem, params: Tree, meta: Tree
) -> tuple[dict[str, float], dict[str, Curve], dict[str, Picture]]:
    """Return the numbers, the curves and the pictures of `evaluate` by name.

    Raises:
        Diverged: a parameter is not finite.
        MetabenchError: `evaluate` returned something else.
    """
    check_finite(InnerState(params, {}))
    found = checked(problem.evaluate(params, meta), "evaluate()", Picture)
    curves, pictures = (
        {name: value for name, value in found.items() if isinstance(value, kind)} for kind in (Curve, Picture)
    )
    return {name: float(found[name]) for name in found if name not in curves | pictures}, curves, pictures


def decisive(problem: Problem, metrics: Mapping[str, float], meta: Tree) -> float:
    """Return the metric that the card names first.

    Raises:
        Diverged: it is not finite, or a meta-parameter is not.
        MetabenchError: there is none.
    """
    first = problem.card.metrics[0].name
    if first not in metrics:
        names = ", ".join(map(repr, metrics)) or "no number"
        raise MetabenchError(f"evaluate() returned {names}, and the card's first metric is '{first}'")
    if not math.isfinite(metrics[first]) or not tree.all_finite(meta):
        raise Diverged(
            f"the meta-parameters or the metric ({metrics[first]}) are not finite after the last meta-update"
        )
    return metrics[first]


def _curves(curves: Mapping[str, Curve], note: str = "", pictures: Mapping[str, Picture] | None = None) -> Row:
    """Return the columns of sound curves and pictures, and a message that names the others and says what is wrong with them."""
    sound, faults = sound_curves(curves)
    shown, unseen = sound_pictures(pictures or {})
    message = "; ".join(filter(None, (note, faults, unseen)))
    return {"curves": sound} | ({"pictures": shown} if shown else {}) | ({"message": message} if message else {})
