"""What the figures of a memory study share: the floor's name, captions and the notes of points."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.figure import Figure, Panel
from metabench.report.figures.parts import seeds
from metabench.report.results.entries import slug
from metabench.report.sections.memory_study.study import Comparison, Study
from metabench.report.sections.memory_study.sweeps import configuration_words

FLOOR = "analytic floor"


def memory_figure(
    study: Study, kind: str, title: str, caption: str, panels: list[Panel], measured: bool = True
) -> Figure | None:
    """Return the figure of some panels; None without any. measured: whether the caption says over how many seeds."""
    if not panels:
        return None
    over = seeds({entry.seeds for entry in study.entries if not entry.failed} or {0}) if measured else ""
    return Figure(slug(kind), kind, title, f"{caption} ({over})." if over else f"{caption}.", panels)


def comparison_note(study: Study, comparison: Comparison) -> str:
    """Say of which configuration a point is, and how far the method is above its floor."""
    over = comparison.over_floor
    words = f"{comparison.configuration.task.problem}, {configuration_words(study, comparison.configuration)}"
    return words if over is None else f"{words}; {numbers.ratio(over)} the floor"
