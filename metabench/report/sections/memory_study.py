"""What exact hypergradients cost in memory: mixed mode and recomputation against plain unrolling, where the suite sweeps them."""

from __future__ import annotations

from metabench.report.memory_figures import study_figures, study_styles
from metabench.report.section import Section
from metabench.report.study_table import study_tables
from metabench.report.study_words import is_the_question, study_sentences

MEMORY_STUDY = Section(
    name="memory-study",
    title="Memory study",
    figures=study_figures,
    tables=study_tables,
    sentences=study_sentences,
    leads=is_the_question,
    styles=study_styles,
    subtitle=lambda suite: f"against {suite.baseline}",
    order=10,
    module=__name__,
)
