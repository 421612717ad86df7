"""What exact hypergradients cost in memory: mixed mode and recomputation against plain unrolling, where the suite sweeps them."""

from __future__ import annotations

from metabench.report.blocks import Sentence
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.report.sections.memory_study.figures import study_figures
from metabench.report.sections.memory_study.sentences import study_headline, study_sentences
from metabench.report.sections.memory_study.table import study_tables


def _parts(suite: Suite) -> list[Part]:
    blocks = [
        *(Sentence(text, about) for about, text in study_sentences(suite)),
        *study_figures(suite),
        *study_tables(suite),
    ]
    return [Part("memory-study", "Memory study", blocks, f"against {suite.baseline}")] if blocks else []


MEMORY_STUDY = Section("memory-study", "Memory study", _parts, study_headline, order=10, module=__name__)
