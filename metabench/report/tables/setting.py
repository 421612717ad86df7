"""The table of one setting: every method with its quality, cost and error, failures in their place."""

from __future__ import annotations

from collections.abc import Sequence

from metabench.report import numbers
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.frame import record
from metabench.report.results.outcomes import Outcome, by_group
from metabench.report.results.settings import Setting
from metabench.report.tables.cells import (
    bytes_cell,
    estimate_cell,
    setting_name,
    status_cell,
    time_cell,
)
from metabench.report.tables.certificate_words import label_cell, marked, state_marks
from metabench.report.tables.overview import quality_words
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.results.statistics import Estimate

ROWS_SHOWN = 20
_ERRORS = (
    Column(
        "cosine",
        "cosine",
        "Against the exact unrolled",
        "with the exact hypergradient of the whole window; of the mean draw if it draws",
    ),
    Column(
        "hypergradient_error",
        "rel. error",
        "Against the exact unrolled",
        "norm of the difference over the norm of the exact one",
    ),
    Column(
        "target_error",
        "own error",
        "Against the exact unrolled",
        "the same against the exact value of the method's own target",
    ),
)


def setting_table(suite: Suite, setting: Setting, entries: list[Entry]) -> Table:
    """Return the table of one setting: a row for each method, options and number of inner steps, failures included."""
    metric = next((entry.metric for entry in entries if entry.metric), "quality")
    arrow = "↑" if next((entry.higher_is_better for entry in entries if entry.metric), True) else "↓"
    columns = [
        Column("label", "method", numeric=False, description="method with the options that differ from its defaults"),
        Column("status", "failed", numeric=False, description="runs that did not finish, one per seed"),
        Column("inner_steps", "K", description="inner steps per hypergradient"),
        Column("quality", f"{metric}\u00a0{arrow}", "Test quality", "mean over seeds and its interval"),
        Column(
            "answer",
            "own point",
            "Test quality",
            "the same at the parameters that the method itself proposes, where it moves a second point: mean over seeds",
        ),
        Column("best", "against the best", "Test quality", "over shared seeds", numeric=False),
        Column("baseline", f"against {suite.baseline}", "Test quality", "over shared seeds", numeric=False),
        Column("peak", "peak", "Memory", "peak bytes of one hypergradient, everything live included"),
        Column("memory_ratio", "ratio", "Memory", f"peak over that of {suite.baseline}, same inner steps"),
        Column("time", "median", "Time", "median time of one hypergradient after warm-up"),
        Column(
            "time_ratio",
            "ratio",
            "Time",
            f"time over that of {suite.baseline}, with the digits that the noise floor allows",
        ),
        Column(
            "time_verdict", "verdict", "Time", f"against {suite.baseline}: a tie within the noise floor", numeric=False
        ),
        *_ERRORS,
    ]
    table = Table(
        setting_name(suite, setting),
        f"{setting.task.problem} on {setting.task.dataset}: {suite.titles[setting]}",
        f"Costs of one hypergradient, ratios to {suite.baseline}. Bold: not told apart from the best.{_steps_words(entries)}",
        columns,
        folded=True,
        rows_shown=ROWS_SHOWN,
    )
    decided = by_group(suite)
    decimals = numbers.shared_decimals(entry.quality for entry in entries)
    for entry in entries:
        outcome = decided[entry.group]
        if outcome.stands_for(entry) is entry or entry.failures:
            table.rows.append(_row(outcome, entry, decimals))
        table.records.append(record(entry, outcome))
    table.drop_absent(tuple(column.key for column in columns if column.group))
    if not any(entry.failures for entry in entries):
        table.columns = [column for column in table.columns if column.key != "status"]
    if len({entry.inner_steps for entry in entries}) == 1:
        table.columns = [column for column in table.columns if column.key != "inner_steps"]
    table.notes += _notes(suite, entries, [decided[group] for group in dict.fromkeys(entry.group for entry in entries)])
    state_marks(table, entries)
    return table


def _row(outcome: Outcome, entry: Entry, decimals: int | None) -> dict[str, Cell]:
    chosen = entry in outcome.entries
    against = outcome.against_baseline.get(entry.label) if chosen else None
    cosine = entry.direction_cosine
    return {
        "label": label_cell(
            entry,
            " ".join(f"= {marked(twin)}" for twin in outcome.twins(entry.label)),
            f"cell {', '.join(entry.cells)}",
        ),
        "status": status_cell(entry) if entry.failures else Cell(""),
        "inner_steps": Cell(numbers.count(entry.inner_steps), entry.inner_steps),
        "quality": estimate_cell(
            entry.quality, decimals=decimals, tone="best" if entry in outcome.at_the_top() else ""
        ),
        "answer": exact_cell(numbers.plain(entry.answer_quality, 4), entry.answer_quality)
        if entry.answer_quality is not None
        else Cell(numbers.ABSENT),
        "best": Cell(
            (quality_words(outcome, entry) if chosen else "tried" * (entry.quality is not None)) or numbers.ABSENT
        ),
        "baseline": Cell(
            f"{_signed(against.difference)} {against.word}".strip()
            if against and against.difference
            else numbers.ABSENT
        ),
        "peak": bytes_cell(entry.peak_bytes),
        "memory_ratio": Cell(numbers.ratio(entry.memory_ratio), entry.memory_ratio),
        "time": time_cell(entry),
        "time_ratio": Cell(outcome.time_words(entry), entry.time_ratio),
        "time_verdict": Cell(outcome.time_verdict(entry) or numbers.ABSENT),
        "cosine": Cell(numbers.cosine(cosine), cosine, repr(cosine) if cosine is not None else ""),
        "hypergradient_error": _error_cell(entry.gradient["hypergradient_error"]),
        "target_error": _error_cell(entry.gradient["target_error"]),
    }


def _error_cell(value: float | None) -> Cell:
    return Cell(numbers.plain(value, 2), value, repr(value) if value is not None else "")


def _signed(found: Estimate) -> str:
    return numbers.estimate(found, signed=True)


def _steps_words(entries: Sequence[Entry]) -> str:
    """Say what all entries share of inner steps, meta-updates and batches; empty where they share none."""
    steps = {(entry.inner_steps, entry.outer_steps) for entry in entries}
    if len(steps) != 1:
        return ""
    inner, outer = next(iter(steps))
    batches = sorted({entry.batch for entry in entries if entry.batch})
    parts = [numbers.plural(inner, "inner step")]
    parts += [numbers.plural(outer, "meta-update")] * (outer > 0)
    parts += [f"batches of {' or '.join(map(numbers.count, batches))}"] if batches else []
    return f" {', '.join(parts)}."


def _notes(suite: Suite, entries: Sequence[Entry], found: Sequence[Outcome]) -> list[str]:
    notes = []
    for group in dict.fromkeys(group for outcome in found for group in outcome.same):
        notes.append(
            f"{' and '.join(sorted(group))} are the same computation here: equal bytes, and a hypergradient equal to the bit."
        )
    tried: dict[str, dict[str, None]] = {}
    chosen: dict[str, dict[str, None]] = {}
    for outcome in found:
        for method, labels in outcome.tried.items():
            tried.setdefault(method, {}).update(dict.fromkeys(labels))
            own = [entry.label for entry in outcome.entries if entry.method == method]
            chosen.setdefault(method, {}).update(dict.fromkeys(own))
    why = ", by the outer loss late in training" if entries[0].setting.trains else ""
    for method, each in tried.items():
        notes.append(f"{method}: tried {', '.join(each)}; chosen{why}: {', '.join(chosen[method])}.")
    if not any(entry.memory_ratio or entry.time_ratio for entry in entries):
        notes.append(_why_no_ratio(suite.baseline, entries))
    if any(entry.time_ratio for entry in entries) and not any(outcome.floor for outcome in found):
        notes.append(f"{suite.baseline} was not run twice here, so there is no noise floor, and no verdict on time.")
    draws = {entry.method: entry.samples for entry in entries if entry.draws}
    for method, samples in draws.items():
        notes.append(
            f"{method} draws at random: its cosine is that of the mean of {samples} samples per seed, its error that of single draws."
        )
    return notes


def _why_no_ratio(baseline: str, entries: Sequence[Entry]) -> str:
    own = [entry for entry in entries if entry.label == baseline]
    if not own:
        return f"No ratios: the baseline '{baseline}' is not among the methods of this setting."
    return f"No ratios: the baseline '{baseline}' has no measurement here ({', '.join(sorted({entry.worst_status for entry in own}))})."
