"""One method beside another on every problem that runs both: what the suite's study `rival` asks."""

from __future__ import annotations

from collections.abc import Sequence

from metabench.report import numbers
from metabench.report.blocks import Block, Note, Sentence
from metabench.report.results.entries import Suite
from metabench.report.section import Part, Section
from metabench.report.sections.rivals.figures import ratio_figures
from metabench.report.sections.rivals.matches import BASELINE, ORACLE, Match, declared, matches
from metabench.report.sections.rivals.table import task_table


def _parts(suite: Suite) -> list[Part]:
    pair, found = declared(suite), matches(suite)
    if pair is None or not found:
        return []
    subject, rival = pair
    tasks = list(dict.fromkeys(match.setting.task for match in found))
    of = {task: [match for match in found if match.setting.task == task] for task in tasks}
    blocks: list[Block] = [
        *(Sentence(_saved(of[task], subject, rival), task.problem) for task in tasks),
        *ratio_figures(suite, found, subject, rival),
        *(task_table(suite, task, of[task], rival) for task in tasks),
    ]
    missing = [task.problem for task in tasks if not _has_references(of[task])]
    if missing:
        blocks.append(
            Note(f"No gap is shown of {numbers.some(missing)}: the suite did not run baseline and oracle there.")
        )
    return [Part("rivals", f"{subject} and {rival}", blocks, "the study of two methods that the suite asks for")]


def _has_references(found: Sequence[Match]) -> bool:
    return any({BASELINE, ORACLE} <= match.references.keys() for match in found)


def _saved(found: Sequence[Match], subject: str, rival: str) -> str:
    """Return what the subject takes of the rival's memory and time on a task, over its sizes."""
    pairs = [(match.of(subject)[0], match.of(rival)[0]) for match in found]
    words = []
    for name, cost in (("memory", "peak_bytes"), ("time", "time_median")):
        ratios = sorted(
            getattr(ours, cost) / getattr(theirs, cost)
            for ours, theirs in pairs
            if getattr(ours, cost) and getattr(theirs, cost)
        )
        if ratios:
            ends = dict.fromkeys(numbers.ratio(end) for end in (ratios[0], ratios[-1]))
            words.append(f"{' to '.join(ends)} of the {name}")
    closed = [share for match in found for one in match.of(subject)[:1] if (share := match.closed(one)) is not None]
    gap = f"; it closes {numbers.plain(100 * min(closed))} % of the gap to the oracle or more" if closed else ""
    return f"`{subject}` takes {' and '.join(words) or 'what was not measured'} of `{rival}`{gap}."


RIVALS = Section("rivals", "One method beside another", _parts, order=11, module=__name__)
