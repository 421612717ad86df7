"""What ran, and how it ended."""

from __future__ import annotations

from metabench.report.blocks import Block, Drawing, Note
from metabench.report.drawing.status_matrix import draw_status_matrix
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.report.tables.coverage import coverage_table, failure_table


def _parts(suite: Suite) -> list[Part]:
    if not suite.rows:
        return [Part("coverage", "Coverage", [Note("No runs.")])]
    failures, coverage = failure_table(suite), coverage_table(suite)
    matrix = Drawing(
        "status",
        coverage.title,
        "Runs by status, one run per seed.",
        lambda: draw_status_matrix(coverage, list(suite.styles)),
        coverage.to_csv(),
        shown=False,
    )
    blocks: list[Block] = [coverage, matrix, failures if failures.rows else Note("Every run finished.")]
    return [Part("coverage", "Coverage", blocks, folded=True)]


COVERAGE = Section("coverage", "Coverage", _parts, order=50, module=__name__)
