"""Whether the measurements can be trusted: memory as predicted, and as measured."""

from __future__ import annotations

from metabench.report.blocks import Sentence
from metabench.report.figures.prediction import comparisons, prediction_figure, prediction_sentence
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section


def _parts(suite: Suite) -> list[Part]:
    figure = prediction_figure(suite)
    if figure is None:
        return []
    return [
        Part("measurement", "Measurement", [Sentence(prediction_sentence(comparisons(suite))), figure], folded=True)
    ]


MEASUREMENT = Section("measurement", "Measurement", _parts, order=40, module=__name__)
