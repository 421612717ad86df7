"""Wide networks beside their limit, and the kernel that each method has there."""

from __future__ import annotations

import statistics

from metabench.kernels.names import CONDITION, RELATIVE, TEST_LOSS, TEST_OUTPUTS, TRAINING_LOSS, TRAINING_OUTPUTS
from metabench.report import numbers
from metabench.report.blocks import Block, Sentence
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task
from metabench.report.section import Part, Section
from metabench.report.sections.kernel_study.bound import bound_figure, bound_words
from metabench.report.sections.kernel_study.classification import characters_figure, gain_table, width_figure
from metabench.report.sections.kernel_study.figures import (
    distance_figure,
    error_figure,
    loss_figure,
    rate_figure,
    spectra_figure,
    standard_figure,
)
from metabench.report.sections.kernel_study.study import Regime, regimes, values
from metabench.report.sections.kernel_study.table import kernel_table
from metabench.results.bounds import BOUND, COMPLEXITY, TEST_ERROR
from metabench.results.spectra import EIGENVALUES

_TOLERANCE = 0.1


def _parts(suite: Suite) -> list[Part]:
    found = regimes(suite)
    parts = [_part(suite, regime, place) for place, regime in enumerate(found)]
    if (figure := standard_figure(suite)) is not None:
        parts.append(Part("kernel-standard", "Without a limit", [figure], "how far networks move"))
    shown = (characters_figure(suite), gain_table(suite), width_figure(suite))
    if blocks := [block for block in shown if block is not None]:
        parts.append(
            Part(
                "kernel-classification",
                "Unseen characters",
                blocks,
                "few-shot classification by wide networks and kernels",
            )
        )
    if (figure := spectra_figure(suite)) is not None:
        parts.append(Part("kernel-spectra", "Spectra", [figure], "of each method's hypergradient"))
    if (figure := bound_figure(suite)) is not None:
        parts.append(
            Part(
                "kernel-bound",
                "Generalisation",
                [Sentence(bound_words(figure)), figure],
                "the bound against test errors",
            )
        )
    return parts


def _part(suite: Suite, regime: Regime, place: int) -> Part:
    figures = [of(suite, regime) for of in (loss_figure, error_figure, rate_figure, distance_figure)]
    blocks: list[Block] = [
        *(Sentence(text) for text in (_words(regime), _why(regime)) if text),
        *(figure for figure in figures if figure.panels),
        kernel_table(regime),
    ]
    words = f", {regime.words}" if regime.words else ""
    subtitle = f"{regime.task.problem} on {regime.task.dataset}{words}, {regime.outer_steps} outer steps"
    return Part(f"kernel-{place}", "Infinite width", blocks, subtitle, folded=place > 0)


def _words(regime: Regime) -> str:
    """Return from which width on the limit is to be trusted, by method."""
    groups: dict[int | None, list[str]] = {}
    for one in regime.methods:
        groups.setdefault(one.trusted_from(TEST_OUTPUTS, _TOLERANCE), []).append(f"`{one.label}`")
    said = [
        f"from width {width:,} on for {', '.join(groups[width])}"
        for width in sorted(width for width in groups if width is not None)
        if width is not None
    ]
    if None in groups:
        said.append(f"at no width here for {', '.join(groups[None])}")
    return (
        f"The adapted outputs on test tasks are within {_TOLERANCE:.0%} of those of infinite width {'; '.join(said)}."
    )


def _why(regime: Regime) -> str:
    """Return what theory asks about: the condition of the meta kernel, and how far the widest network moves; empty if unknown."""
    conditions = [value for one in regime.methods for value in values(one.limit, "meta_summary", CONDITION)]
    widest = regime.widths[-1]
    moved = [value for one in regime.methods for value in values(one.runs.get(widest, {}), "meta_summary", RELATIVE)]
    said = []
    if conditions:
        condition = numbers.significant(statistics.median(conditions), 2)
        said.append(f"The meta kernel's largest eigenvalue is {condition} times its least")
    if any(moved):
        said.append(f"at width {widest:,} the parameters move by up to {100 * max(moved):.2g} % of their norm")
    return "; ".join(said) + "." if said else ""


def _headline(suite: Suite) -> str:
    found = regimes(suite)
    if not found or {regime.task.problem for regime in found} != {task.problem for task in suite.tasks}:
        return ""
    return _words(found[0])


def _draws(suite: Suite, task: Task, name: str) -> bool:
    if name.startswith((TRAINING_OUTPUTS, TEST_OUTPUTS)):
        return True
    drawn = name in (TRAINING_LOSS, TEST_LOSS)
    return (
        name == EIGENVALUES
        or name.startswith((BOUND, COMPLEXITY, TEST_ERROR))
        or (drawn and task in {regime.task for regime in regimes(suite)})
    )


KERNELS = Section("kernels", "Infinite width", _parts, _headline, _draws, order=15, module=__name__)
