"""Meta-training with a method, and the quality of what it leads to."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from metabench.autodiff.inner import check_finite
from metabench.core import tree
from metabench.core.curves import Curve, sound_curves
from metabench.core.errors import Diverged, MetabenchError
from metabench.core.types import InnerState
from metabench.stages.subject import Row, Subject
from metabench.training.loop import UNITS, Updated, train
from metabench.training.run import Run


def quality(subject: Subject) -> Iterator[Row]:
    """Yield the columns of quality, and the run's curves: where the run fails, as far as it went.

    Raises:
        Diverged: the run, the meta-parameters or the metric are not finite.
    """
    problem, steps = subject.problem, subject.outer_steps
    saved, stream = subject.checkpoint, subject.stream("training")
    run, note = saved.resume(problem, stream) if saved else (Run.fresh(problem, stream), "")
    subject.tell("training", run.step, steps)
    with contextlib.closing(train(problem, subject.method, subject.options, run, steps, saved)) as events:
        try:
            for event in events:
                if isinstance(event, Updated):
                    subject.tell("training", event.step, steps)
        except Exception:
            yield _curves(run.record.curves(UNITS), note)
            raise
    params, meta = run.outcome(problem)
    check_finite(InnerState(params, {}))
    found = problem.evaluate(params, meta)
    metrics = {name: float(value) for name, value in found.items() if not isinstance(value, Curve)}
    followed = run.record.curves(UNITS)
    for name, value in found.items():
        if isinstance(value, Curve):
            if name in followed:
                raise MetabenchError(f"evaluate() returned the curve '{name}', a name that another curve of the run has")
            followed[name] = value
    if run.step < steps and run.best is not None:
        stopped = f"stopped after {run.step} of {steps} meta-updates: validation was best after {run.best.step}"
        note = "; ".join(filter(None, (note, stopped)))
    yield _curves(followed, note)
    first = problem.card.metrics[0].name
    if first not in metrics:
        names = ", ".join(map(repr, metrics)) or "no number"
        raise MetabenchError(f"evaluate() returned {names}, and the card's first metric is '{first}'")
    if not math.isfinite(metrics[first]) or not tree.all_finite(meta):
        raise Diverged(f"the meta-parameters or the metric ({metrics[first]}) are not finite after the last meta-update")
    yield {
        "quality": metrics[first],
        "metrics": metrics,
        "outer_loss": run.outer_loss,
        "meta_summary": {name: float(value) for name, value in problem.summary(meta).items()},
        "train_s": run.seconds,
        "data_s": run.data_seconds,
    }
    if saved:
        saved.forget()


def _curves(curves: Mapping[str, Curve], note: str) -> Row:
    """Return the columns of sound curves, and a message that names the others and says what is wrong with them."""
    sound, faults = sound_curves(curves)
    message = "; ".join(filter(None, (note, faults)))
    return {"curves": sound} | ({"message": message} if message else {})
