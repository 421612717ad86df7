"""The figures of a memory study."""

from __future__ import annotations

from metabench.report.figure import Figure
from metabench.report.palette import INKS, REFERENCE, LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.sections.memory_study.ablation_figure import ablation_figure
from metabench.report.sections.memory_study.figure_parts import FLOOR
from metabench.report.sections.memory_study.spread_figures import arithmetic_figure, spread_figure, trade_figure
from metabench.report.sections.memory_study.study import Study
from metabench.report.sections.memory_study.sweep_figures import gain_figure, parts_figure, predicted_figure
from metabench.report.sections.memory_study.sweeps import sweeps

_PANELS_AT_MOST = 3
_STYLES = {FLOOR: LabelStyle("muted", INKS["muted"][0], REFERENCE)}


def study_figures(suite: Suite, study: Study) -> list[Figure]:
    """Return the figures of the suite's memory study that have a panel."""
    found = sweeps(suite, study)
    figures = (
        gain_figure(study, found),
        parts_figure(study, found),
        spread_figure(study),
        trade_figure(study),
        ablation_figure(study),
        arithmetic_figure(study),
        predicted_figure(suite, study, found),
    )
    kept = [figure for figure in figures if figure is not None]
    for figure in kept:
        figure.styles = _STYLES
        figure.tell_apart(suite.all_styles | _STYLES).keep(_PANELS_AT_MOST)
    return kept
