"""Where the rows come from: hardware, versions, configuration, and whom to cite."""

from __future__ import annotations

from metabench.report.blocks import Block, Facts, Note, Source
from metabench.report.results.entries import Suite
from metabench.report.results.provenance import facts
from metabench.report.section import Part, Section


def _parts(suite: Suite) -> list[Part]:
    text = suite.metadata.suite
    configuration: Block = (
        Source("Configuration", text, folded=False) if text else Note("The results do not include a configuration.")
    )
    return [
        Part("provenance", "Provenance", [Facts(facts(suite))], folded=True),
        Part("configuration", "Configuration", [configuration], folded=True),
        Part("citations", "Citations", _citations(suite) or [Note("Nothing to cite.")], folded=True),
    ]


def _citations(suite: Suite) -> list[Block]:
    """Return every method, problem and data set that the rows use, with its BibTeX."""
    used = (
        ("methods", list(dict.fromkeys(entry.method for entry in suite.entries))),
        ("problems", list(dict.fromkeys(entry.setting.task.problem for entry in suite.entries))),
        ("datasets", list(dict.fromkeys(entry.setting.task.dataset for entry in suite.entries))),
    )
    found: list[Block] = []
    for kind, names in used:
        for name in names:
            card = suite.card(kind, name)
            text = str(card.get("citation", "")).strip()
            found.append(
                Source(name, text, str(card.get("title", ""))) if text else Note(f"`{name}`: no citation declared.")
            )
    return found


PROVENANCE = Section("provenance", "Provenance", _parts, order=60, module=__name__)
