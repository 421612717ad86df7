"""The first table: methods by problems, quality relative to the best, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metabench.report import numbers
from metabench.report.results.certified import VERDICT_WORDS, doubt, short, worst
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.outcomes import Outcome
from metabench.report.results.settings import Task
from metabench.report.tables.certificate_words import marked, state_marks
from metabench.report.tables.table import DAGGER, Bar, Cell, Column, Table
from metabench.report.verdicts import Word
from metabench.results.certificate import AS_DECLARED, CERTIFIED

ROWS_SHOWN = 12
_SIGNS = {CERTIFIED: "✓", AS_DECLARED: "≈"}


def overview_table(suite: Suite, telling: dict[Task, Outcome]) -> Table:
    """Return a row for each method, and a column for each problem: that of its largest model."""
    signs = "✓ certified, ≈ approximate as declared"
    columns = [Column("label", "method", numeric=False), Column("certificate", "certificate", numeric=False, description=signs)]
    columns += [_column(suite, task, outcome) for task, outcome in telling.items()]
    columns.append(
        Column("failures", "failed", numeric=False, description="runs that did not finish, over all settings")
    )
    by_method: dict[str, dict[Task, Entry]] = {
        entry.method: {} for entry in suite.entries if entry.setting.task in telling
    }
    for task, outcome in telling.items():
        for entry in outcome.entries:
            by_method.setdefault(entry.method, {})[task] = entry
    scale = _scale([entry for entries in by_method.values() for entry in entries.values()])
    table = Table(
        "overview",
        "Methods by problems",
        f"Each problem with its largest model: quality relative to the best, then memory and time of one hypergradient over those of "
        f"{suite.baseline}, on one logarithmic scale (blue: memory, orange: time). ✓ certified, ≈ approximate as declared.",
        columns,
        rows_shown=ROWS_SHOWN,
    )
    for method in sorted(by_method, key=lambda one: _merit(by_method[one], telling)):
        entries = by_method[method]
        every = [entry for entry in suite.entries if entry.method == method]
        failed: dict[str, int] = {}
        for entry in every:
            for status, number in entry.failures.items():
                failed[status] = failed.get(status, 0) + number
        verdict = worst(entry.verdict for entry in every)
        labels = list(dict.fromkeys(entry.label for entry in entries.values()))
        name = labels[0] if len(labels) == 1 else method
        inexact = next((entry.inexact for entry in entries.values() if entry.inexact), "")
        row = {
            "label": Cell(name, name, label=name, doubt=doubt(verdict), inexact=inexact),
            "certificate": Cell(_SIGNS.get(verdict, DAGGER), verdict, f"{verdict}: {VERDICT_WORDS[verdict]}"),
            "failures": Cell("" if failed else "0", float(sum(failed.values())), badges=tuple(failed.items())),
        }
        record: dict[str, Any] = {"method": method, "certificate": short(verdict), "failed": sum(failed.values())}
        for task, outcome in telling.items():
            row[task.slug] = _cell(outcome, entries.get(task), scale)
            record |= _record(task, outcome, entries.get(task))
        table.rows.append(row)
        table.records.append(record)
    state_marks(table, suite.entries)
    return table


def quality_words(outcome: Outcome, entry: Entry) -> str:
    """Return an entry's quality relative to the best: 'best', '−2.1 worse', '−0.3 not told apart'; empty without a quality."""
    ranking = outcome.ranking
    if ranking is None or entry.quality is None:
        return ""
    if entry.label == ranking.best:
        return "best"
    verdict = ranking.verdicts.get(entry.label)
    if verdict is None or verdict.difference is None:
        return ""
    words = numbers.estimate(verdict.difference, signed=True).partition(" [")[0]
    return words if verdict.word == Word.NONE else f"{words} {verdict.word}"


def _column(suite: Suite, task: Task, outcome: Outcome) -> Column:
    setting, steps, _ = outcome.group
    return Column(
        task.slug, task.problem, numeric=False, description=f"on {task.dataset}, {suite.titles[setting]}, K = {steps}"
    )


def _cell(outcome: Outcome, entry: Entry | None, scale: tuple[float, float]) -> Cell:
    if entry is None:
        return Cell(numbers.ABSENT)
    if entry.failed:
        return Cell("", None, badges=tuple(entry.failures.items()), title="; ".join(entry.messages.values()))
    if (first := outcome.stands_for(entry)) is not entry:
        return Cell(
            f"= {marked(first)}",
            entry.quality.value if entry.quality else None,
            "the same computation here: equal to the bit and to the byte",
            badges=tuple(entry.failures.items()),
        )
    ranking = outcome.ranking
    verdict = ranking.verdicts.get(entry.label) if ranking else None
    top = entry in outcome.at_the_top()
    bars = (
        _bar("memory", entry.memory_ratio, numbers.ratio(entry.memory_ratio), numbers.memory(entry.peak_bytes), scale),
        _bar(
            "time",
            entry.time_ratio,
            outcome.time_words(entry),
            f"{numbers.seconds(entry.time_median)}, {outcome.time_verdict(entry)}",
            scale,
        ),
    )
    return Cell(
        quality_words(outcome, entry),
        entry.quality.value if entry.quality else None,
        f"{entry.label}: {numbers.estimate(entry.quality)} {entry.metric}. {verdict.text if verdict else ''}"
        if entry.quality
        else entry.label,
        tone="best" if top else "",
        badges=tuple(entry.failures.items()),
        bars=tuple(bar for bar in bars if bar is not None),
    )


def _bar(what: str, ratio: float | None, text: str, title: str, scale: tuple[float, float]) -> Bar | None:
    if ratio is None or ratio <= 0:
        return None
    low, high = scale
    return Bar(text, (math.log(ratio) - low) / (high - low), f"{what}: {title}")


def _scale(entries: Sequence[Entry]) -> tuple[float, float]:
    """Return the ends of the shared scale, as logarithms: a little below the least ratio, so that its bar can be seen."""
    ratios = [math.log(ratio) for entry in entries for ratio in (entry.memory_ratio, entry.time_ratio) if ratio]
    low, high = min([*ratios, 0.0]), max([*ratios, 0.0])
    return low - 0.08 * (high - low) - 0.01, high + 0.01


def _merit(entries: dict[Task, Entry], telling: dict[Task, Outcome]) -> tuple[float, ...]:
    """Return the place of a method: on how many problems it is not told apart from the best, then its memory."""
    tops = sum(entry in telling[task].at_the_top() for task, entry in entries.items())
    ratios = [entry.memory_ratio for entry in entries.values() if entry.memory_ratio]
    finished = sum(not entry.failed for entry in entries.values())
    return (-tops, -finished, math.fsum(map(math.log, ratios)) / len(ratios) if ratios else math.inf)


def _record(task: Task, outcome: Outcome, entry: Entry | None) -> dict[str, Any]:
    ranking = outcome.ranking
    verdict = ranking.verdicts.get(entry.label) if ranking and entry else None
    name = task.slug
    return {
        f"{name}_label": entry.label if entry else None,
        f"{name}_quality": entry.quality.value if entry and entry.quality else None,
        f"{name}_verdict": "best"
        if entry and ranking and entry.label == ranking.best
        else verdict.word
        if verdict
        else None,
        f"{name}_memory_ratio": entry.memory_ratio if entry else None,
        f"{name}_time_ratio": entry.time_ratio if entry else None,
        f"{name}_time_verdict": outcome.time_verdict(entry) if entry else None,
        f"{name}_same_as": "; ".join(one.label for one in outcome.twins(entry.label)) if entry else None,
    }
