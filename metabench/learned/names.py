"""Names of what a row says of an optimiser on tasks; without torch, so that the report can read them."""

from __future__ import annotations

AREA = "area under the loss curve"
FINAL = "final loss, log10 of the mean"
MEDIAN = "final loss, log10 of the median"
DIVERGED = "diverged tasks (%)"
LOSS = "loss"
"""The curve of the loss against the inner step, on test tasks."""

AT_FIRST = "first step against the gradient"
PERSISTENT = "steps at a constant gradient"
"""Curves of what an optimiser does; of a group of parameters with its name before them."""

TRAINED_BY = frozenset(
    {
        "optimiser",
        "dense",
        "scaling",
        "start",
        "shortest",
        "episodes",
        "stagger",
        "tasks",
        "outer_learning_rate",
        "outer_schedule",
        "clip",
        "validate_every",
    }
)
"""Options of a problem that say what is learned and how; two rows that differ in no other are judged on the same tasks."""


def on_trial(trial: str, name: str) -> str:
    """Return the name of a number on the tasks of a trial; the tasks trained on have no name."""
    return f"{trial}: {name}" if trial else name


def trial_of(name: str, of: str) -> str | None:
    """Return the trial on which a name is the number `of`; '' for the tasks trained on, None if it is another number."""
    if name == of:
        return ""
    return name.removesuffix(f": {of}") if name.endswith(f": {of}") else None
