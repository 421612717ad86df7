"""The figures of a memory study."""

from __future__ import annotations

from metabench.report.entries import Suite
from metabench.report.memory_ablation_figure import ablation_figure
from metabench.report.memory_figure_parts import FLOOR
from metabench.report.memory_spread_figures import arithmetic_figure, spread_figure, trade_figure
from metabench.report.memory_study import memory_study
from metabench.report.memory_sweep_figures import gain_figure, parts_figure, predicted_figure
from metabench.report.panel import Figure
from metabench.report.study_sweeps import sweeps
from metabench.report.style import INKS, LabelStyle

_PANELS_AT_MOST = 12


def study_styles(suite: Suite) -> dict[str, LabelStyle]:
    """Return the styles of all that these figures show: methods, labels and the floor."""
    return {**suite.method_styles, **suite.styles, FLOOR: LabelStyle("muted", INKS["muted"][0], "d")}


def study_figures(suite: Suite) -> list[Figure]:
    """Return the figures of the suite's memory study; none if it has no such study. They are drawn with `study_styles`."""
    study = memory_study(suite)
    if study is None:
        return []
    found = sweeps(study)
    figures = [
        gain_figure(study, found),
        parts_figure(study, found),
        spread_figure(study),
        trade_figure(study),
        ablation_figure(study),
        arithmetic_figure(study),
        predicted_figure(suite, study, found),
    ]
    kept = [figure for figure in figures if figure is not None]
    for figure in kept:
        figure.keep(_PANELS_AT_MOST)
    return kept
