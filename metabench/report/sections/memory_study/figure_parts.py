"""What the figures of a memory study share: the floor's name, captions and the notes of points."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.figures.figure import Figure, Panel
from metabench.report.figures.parts import conditions, seeds
from metabench.report.results.columns import seeds_word
from metabench.report.results.entries import Entry, slug
from metabench.report.sections.memory_study.study import Comparison, Study
from metabench.report.sections.memory_study.sweeps import configuration_words

FLOOR = "analytic floor"


def memory_figure(study: Study, kind: str, title: str, caption: str, panels: list[Panel]) -> Figure | None:
    """Return the figure of some panels; None without any."""
    if not panels:
        return None
    shown = study.entries
    measured = f"Memory: {seeds_word('peak_bytes')} over {seeds(shown)}; time: median over repeats, then over seeds."
    caption = f"{caption} {measured} {conditions(_measured(shown))}"
    return Figure(
        slug(kind), kind, title, caption, panels, columns=min(3, len(panels)) if kind == "study_ablation" else 2
    )


def _measured(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if not entry.failed] or entries


def comparison_note(study: Study, comparison: Comparison) -> str:
    over = comparison.over_floor
    words = f"{comparison.configuration.task.problem}, {configuration_words(study, comparison.configuration)}"
    return words if over is None else f"{words}; {numbers.ratio(over)} the floor"
