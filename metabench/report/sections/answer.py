"""The answer: which method gives the best quality, what it costs, and each method at a glance."""

from __future__ import annotations

from metabench.report.blocks import Block, Note, Sentence
from metabench.report.page.sentences import sentences
from metabench.report.results.answers import answers, glances
from metabench.report.results.entries import Suite
from metabench.report.results.provenance import warnings
from metabench.report.section import Part, Section
from metabench.report.tables.answers import cost_answer_table, glance_table, quality_answer_table

EMPTY = "This suite has no rows: its configuration has no cells, or none has been collected. There is nothing to compare yet."


def _parts(suite: Suite) -> list[Part]:
    if not suite.rows:
        return [Part("answer", "Answer", [Note(EMPTY)])]
    found = answers(suite)
    overview = glances(suite, found)
    blocks: list[Block] = [Note(text, warns=True) for text in warnings(suite)]
    blocks += [Sentence(text, about) for about, text in sentences(suite, found, overview)]
    blocks += [table for table in (quality_answer_table(suite, found), cost_answer_table(suite, found)) if table.rows]
    return [Part("answer", "Answer", [*blocks, glance_table(suite, overview)])]


ANSWER = Section("answer", "Answer", _parts, order=0, module=__name__)
