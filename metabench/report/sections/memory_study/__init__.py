"""What exact hypergradients cost in memory: the method that the suite's study declares, against the baseline."""

from __future__ import annotations

from metabench.report.blocks import Block, Note, Sentence
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.report.sections.memory_study.figures import study_figures
from metabench.report.sections.memory_study.sentences import study_headline, study_sentences
from metabench.report.sections.memory_study.study import memory_study
from metabench.report.sections.memory_study.sweeps import centre_words
from metabench.report.sections.memory_study.table import study_tables

_MEANING = (
    "Dynamic memory is all that one hypergradient allocates, the parameters saved for each inner step among it (which Kemaev et al. 2025 "
    "count as static); static memory is what it is given: parameters, optimiser state, meta-parameters and batches."
)


def _parts(suite: Suite) -> list[Part]:
    study = memory_study(suite)
    if study is None:
        return []
    blocks: list[Block] = [
        *(Sentence(text, about) for about, text in study_sentences(study)),
        Note(f"{_MEANING} One thing is swept at a time, around the usual configuration ({centre_words(study)})."),
        *study_figures(suite, study),
        *study_tables(suite, study),
    ]
    return [Part("memory-study", "Memory study", blocks, f"{study.subject} against {study.reference}")]


MEMORY_STUDY = Section("memory-study", "Memory study", _parts, study_headline, order=10, module=__name__)
