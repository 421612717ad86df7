"""Searches for architectures: what each strategy chose and paid, pair by pair against random search, and what ranks nets."""

from __future__ import annotations

from metabench.report.blocks import Block, Sentence
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Task
from metabench.report.section import Part, Section
from metabench.report.sections.answer import compared
from metabench.report.sections.searches.figures import best_so_far, regret, steps
from metabench.report.sections.searches.groups import benches, rows_of
from metabench.report.sections.searches.tables import neighbours, outcomes, rankings
from metabench.report.sections.searches.verdicts import against_random, by_hand, own_searches, sharing
from metabench.results import searches as names

_RECONSTRUCTED = (
    "Meta-learned shared weights, and evolution over the nets that are parts of them, follow AT-NAS (Rong et al. 2021), reconstructed from "
    "its abstract: no number here is the paper's."
)


def _parts(suite: Suite) -> list[Part]:
    found = []
    for place, bench in enumerate(benches(suite)):
        said = [*against_random(bench.groups), *by_hand(bench), *sharing(suite, bench), *own_searches(bench)]
        blocks: list[Block | None] = [
            Sentence(_RECONSTRUCTED),
            *(Sentence(text) for text in said),
            best_so_far(suite, bench),
            outcomes(bench),
            steps(suite, bench),
            rankings(bench),
            regret(bench),
        ]
        subtitle = f"space {bench.space}, {bench.ways}-way {bench.shots}-shot {bench.dataset}, {bench.budget} evaluations"
        subtitle += f", nets of at most {bench.mega_flops:g} MFLOPs" if bench.mega_flops else ""
        shown = [block for block in blocks if block is not None]
        found.append(Part(f"searches-{place}", "Architectures", shown, subtitle))
    if found:
        found.append(Part("searches-in-print", "Architectures in print", [neighbours()], folded=True))
    return found


def _headline(suite: Suite) -> str:
    """Return the first verdict where the suite searches and does little else, or has no verdict on anything else."""
    found = rows_of(suite)
    decided = any(one.decided for one in compared(suite).values()) if suite.entries else False
    if not found or (decided and len(found) * 2 < len(suite.rows)):
        return ""
    said = [text for bench in benches(suite) for text in against_random(bench.groups)]
    return said[0] if said else ""


def _draws(suite: Suite, task: Task, name: str) -> bool:
    return name == names.STEPS or name.endswith(f": {names.BEST}")


SEARCHES = Section("searches", "Architectures", _parts, _headline, _draws, order=16, module=__name__)
