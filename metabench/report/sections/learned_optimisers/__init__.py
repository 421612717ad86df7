"""Optimisers that were learned, beside tuned baselines on the same tasks."""

from __future__ import annotations

from metabench.learned.names import AT_FIRST, LOSS, PERSISTENT, trial_of
from metabench.report import numbers
from metabench.report.blocks import Block, Sentence
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task
from metabench.report.section import Part, Section
from metabench.report.sections.learned_optimisers.entrants import Bench, benches
from metabench.report.sections.learned_optimisers.figures import curves_figure, cutting_figure, response_figure
from metabench.report.sections.learned_optimisers.pictures import pictures_drawing
from metabench.report.sections.learned_optimisers.tables import (
    TUNED_FOR,
    ahead,
    cutting_table,
    results_table,
    standing,
    statements_table,
    transfer_table,
)
from metabench.report.verdicts import Word


def _parts(suite: Suite) -> list[Part]:
    found = _compared(suite)
    parts = [_part(suite, bench, found) for bench in found]
    if (table := statements_table(found)) is not None:
        parts.append(Part("published-orderings", "Published orderings", [table], folded=True))
    return parts


def _compared(suite: Suite) -> list[Bench]:
    """Return the tasks on which two optimisers or more are judged."""
    return [bench for bench in benches(suite) if len(bench.entrants) > 1]


def _part(suite: Suite, bench: Bench, others: list[Bench]) -> Part:
    sentence = ahead(bench)
    blocks: list[Block | None] = [
        Sentence(f"{sentence}.") if sentence else None,
        curves_figure(suite, bench),
        pictures_drawing(suite, bench),
        response_figure(suite, bench),
        results_table(bench),
        transfer_table(bench),
        cutting_table(bench),
        cutting_figure(suite, bench),
    ]
    return Part(
        f"optimisers-{others.index(bench)}-{bench.task.slug}",
        "Optimisers",
        [block for block in blocks if block is not None],
        f"{bench.task.problem} on {bench.task.dataset}, {_words(bench, others)}",
    )


def _words(bench: Bench, others: list[Bench]) -> str:
    """Return the size, and the conditions in which it differs from other benches of the problem."""
    beside = [dict(one.conditions) for one in others if one.task == bench.task]
    differing = [
        f"{name} {value}" for name, value in bench.conditions if len({str(one.get(name)) for one in beside}) > 1
    ]
    return ", ".join([bench.size, *differing])


def _headline(suite: Suite) -> str:
    """Return on how many families a learned optimiser is ahead, if the suite is about nothing else."""
    found = [bench for bench in benches(suite) if bench.learned and bench.tuned]
    if not found or {bench.task for bench in found} != set(suite.tasks):
        return ""
    wins = sum(standing(bench) == Word.BETTER for bench in found)
    families = numbers.plural(len(found), "set", "sets")
    return f"A learned optimiser is ahead of the best tuned baseline on {wins} of {families} of tasks."


def _draws(suite: Suite, task: Task, name: str) -> bool:
    if task not in {bench.task for bench in _compared(suite)}:
        return False
    return any(trial_of(name.removesuffix(TUNED_FOR), drawn) is not None for drawn in (LOSS, AT_FIRST, PERSISTENT))


LEARNED = Section("learned-optimisers", "Optimisers", _parts, _headline, _draws, order=12, module=__name__)
