"""What every setting decides: the best, what is not told apart from it, and the cheapest of these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metabench.report import numbers, verdicts
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.frame import estimate_columns, setting_columns
from metabench.report.results.outcomes import Outcome, estimating
from metabench.report.tables.cells import failures_cell, setting_cells
from metabench.report.tables.certificate_words import label_cell, marked, state_marks
from metabench.report.tables.table import Cell, Column, Table
from metabench.report.verdicts import Word


def by_setting_table(suite: Suite, found: Sequence[Outcome]) -> Table:
    """Return a row for each setting and number of inner steps."""
    table = Table(
        "by-setting",
        "What each setting decides",
        "Best: the highest mean quality, or the lowest where the metric falls. Cheapest: among the methods not told apart from the best; "
        "where nothing was trained, among those exact for the unrolled hypergradient.",
        [
            Column("task", "problem", numeric=False),
            Column("setting", "setting", numeric=False),
            Column("inner_steps", "K", description="inner steps per hypergradient"),
            Column("best", "best quality", numeric=False),
            Column("tied", "not told apart from it", numeric=False),
            Column("memory", "least memory", numeric=False),
            Column(
                "time", "fastest", numeric=False, description="where times differ by less than the noise floor, a tie"
            ),
            Column("floor", "noise floor", description="smallest ratio of times above 1 that counts as a difference"),
            Column("failures", "unfinished runs", numeric=False),
        ],
        folded=True,
    )
    for outcome in found:
        entries = cheapest_among(outcome)
        best = next((one for one in outcome.entries if outcome.ranking and one.label == outcome.ranking.best), None)
        tied = [one for one in outcome.at_the_top() if one is not best]
        memory, fastest = least_memory(entries), fastest_of(outcome, entries)
        failures: dict[str, int] = {}
        for entry in outcome.entries:
            for status, number in entry.failures.items():
                failures[status] = failures.get(status, 0) + number
        row = setting_cells(suite, outcome.setting)
        row["inner_steps"] = Cell(numbers.count(outcome.group[1]), outcome.group[1])
        row["best"] = (
            label_cell(best, f"{numbers.estimate(best.quality)} {best.metric}") if best else Cell(numbers.ABSENT)
        )
        row["tied"] = Cell(
            numbers.some(map(marked, tied), 4) or numbers.ABSENT, float(len(tied)), ", ".join(map(marked, tied))
        )
        row["memory"] = _named(memory, [numbers.memory(one.peak_bytes) for one in memory])
        row["time"] = _named(fastest, [numbers.seconds(one.time_median) for one in fastest])
        row["floor"] = Cell(numbers.ratio(floor_ratio(outcome)), floor_ratio(outcome))
        row["failures"] = failures_cell(failures)
        table.rows.append(row)
        table.records.append(_record(outcome, best, tied, memory, fastest, failures))
    state_marks(table, suite.entries)
    table.drop_absent(("best", "tied", "floor"))
    return table


def cheapest_among(outcome: Outcome) -> list[Entry]:
    """Return the entries whose cost is compared: those at the top, or of what was not trained, those exact for the unrolled one."""
    top = estimating(outcome.at_the_top())
    if outcome.setting.trains:
        return top or [one for one in estimating(outcome.entries) if not one.failed]
    exact = [one for one in estimating(outcome.entries) if one.exact and one.target == "unrolled" and not one.failed]
    return exact or [one for one in estimating(outcome.entries) if not one.failed]


def least_memory(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with the fewest bytes: several where they are equal to the byte."""
    least = min((one.peak_bytes for one in entries if one.peak_bytes is not None), default=None)
    return [one for one in entries if least is not None and one.peak_bytes == least]


def fastest_of(outcome: Outcome, entries: Sequence[Entry]) -> list[Entry]:
    """Return the fastest entry with those within its noise floor and those of one computation; without a floor, none: no verdict."""
    timed = sorted((one for one in entries if one.time_median), key=lambda one: one.time_median or 0.0)
    if not timed or outcome.floor is None:
        return []
    least = timed[0].time_median or 1.0
    near = [
        one for one in timed if verdicts.time_verdict((one.time_median or 0.0) / least, outcome.floor) != Word.SLOWER
    ]
    alike = {outcome.stands_for(one) for one in near}
    return [one for one in timed if outcome.stands_for(one) in alike]


def floor_ratio(outcome: Outcome) -> float | None:
    """Return the least ratio of times, above 1, that counts as a difference; None without a noise floor."""
    return math.exp(outcome.floor.threshold) if outcome.floor else None


def _named(entries: Sequence[Entry], values: Sequence[str]) -> Cell:
    if not entries:
        return Cell(numbers.ABSENT)
    if len(entries) == 1:
        return label_cell(entries[0], values[0])
    return Cell(f"a tie: {numbers.some(map(marked, entries), 4)}", float(len(entries)), ", ".join(map(marked, entries)))


def _record(
    outcome: Outcome,
    best: Entry | None,
    tied: Sequence[Entry],
    memory: Sequence[Entry],
    fastest: Sequence[Entry],
    failures: dict[str, int],
) -> dict[str, Any]:
    return {
        **setting_columns(outcome.setting),
        "inner_steps": outcome.group[1],
        "best": best.label if best else None,
        "winner": outcome.ranking.winner if outcome.ranking else None,
        **estimate_columns("quality", best.quality if best else None),
        "not_told_apart": "; ".join(one.label for one in tied),
        "least_memory": "; ".join(one.label for one in memory),
        "least_memory_bytes": memory[0].peak_bytes if memory else None,
        "fastest": "; ".join(one.label for one in fastest),
        "fastest_s": fastest[0].time_median if fastest else None,
        "noise_floor": floor_ratio(outcome),
        "same": "; ".join(" = ".join(sorted(group)) for group in outcome.same),
        "failures": "; ".join(f"{status}={number}" for status, number in failures.items()),
    }
