"""What each method declares, whether it holds, and how methods that are exact in a limit approach it."""

from __future__ import annotations

from metabench.report.blocks import Block, Note
from metabench.report.figure import Figure
from metabench.report.figures.solver_budget import budget_figure
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.report.tables.certificates import certificate_table

NONE = (
    "These results hold no certificates, so nothing shows that the methods compute what they declare. "
    "`metabench certify --out certificates.parquet` certifies every method, `metabench collect --certificates certificates.parquet` "
    "adds the certificates to the results; a suite with `certify: true`, the default, does both."
)


def _parts(suite: Suite) -> list[Part]:
    blocks: list[Block] = [] if suite.certificates else [Note(NONE)]
    budget = budget_figure(suite)
    blocks += [certificate_table(suite), *([budget] if isinstance(budget, Figure) else [])]
    return [Part("certificates", "Certificates", blocks if suite.rows else [Note("No methods.")], folded=True)]


CERTIFICATES = Section("certificates", "Certificates", _parts, order=30, module=__name__)
