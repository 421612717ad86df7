"""The answer tables: best quality and its cost, least cost, and each method at a glance."""

from __future__ import annotations

from typing import Any

from metabench.report import numbers
from metabench.report.results.answers import Answer, Glance, reference_label
from metabench.report.results.certified import doubt, short
from metabench.report.results.entries import Entry, Suite
from metabench.report.tables.cells import (
    chance_cell,
    estimate_record,
    exact_cell,
    failures_cell,
    setting_cells,
    setting_record,
)
from metabench.report.tables.certificate_words import label_cell, marked, state_marks
from metabench.report.tables.table import Cell, Column, Table
from metabench.results.statistics import MINIMUM_SEEDS


def quality_answer_table(suite: Suite, found: list[Answer]) -> Table:
    """Return, for each setting that was trained, the best quality and the cheapest method that reaches it."""
    table = Table(
        "answer-quality",
        "Which method gives the best quality, and which tied method costs least",
        f"Mean test quality and {numbers.INTERVAL_WORDS}. A method ties with the best if their intervals overlap; it may still be worse. "
        "Only methods whose every seed finished are considered, if there are any. "
        f"Ratios in parentheses are to {suite.baseline}. Hardware: {', '.join(suite.hardware) or 'none'}.",
        [
            Column("task", "problem", numeric=False),
            Column("setting", "setting", numeric=False),
            Column("best", "best quality", numeric=False),
            Column("n", "n", description="seeds"),
            Column(
                "tied",
                "tie with it",
                numeric=False,
                description="other methods whose every seed finished and whose interval overlaps that of the best",
            ),
            Column("memory", "least memory among these", numeric=False),
            Column("time", "fastest among these", numeric=False),
            Column("failures", "unfinished runs", numeric=False),
        ],
    )
    for answer in found:
        if not answer.setting.trains:
            continue
        best = answer.best
        entries = suite.settings[answer.setting]
        steps = len({entry.inner_steps for entry in entries}) > 1
        row = setting_cells(suite, answer.setting)
        if best is None or best.quality is None:
            row |= {key: Cell(numbers.ABSENT) for key in ("best", "n", "tied", "memory", "time")}
        else:
            arrow = "↑" if best.higher_is_better else "↓"
            row["best"] = _entry_cell(suite, best, f"{numbers.estimate(best.quality)} {arrow} {best.metric}", steps)
            row["n"] = Cell(str(best.quality.n), best.quality.n)
            if best.quality.low is None:
                row["tied"] = Cell("unknown", None, title=f"fewer than {MINIMUM_SEEDS} seeds: no intervals to compare")
            else:
                others = [marked(entry) for entry in answer.tied if entry is not best]
                row["tied"] = Cell(
                    numbers.some(others, 3) or "none of the others",
                    float(len(others)),
                    title=", ".join(others),
                    tone="" if others else "muted",
                )
            row["memory"] = _cost_cell(suite, answer.least_memory, "peak_bytes", steps)
            row["time"] = _cost_cell(suite, answer.fastest, "time_median", steps)
        row["failures"] = failures_cell(answer.failures)
        table.rows.append(row)
        table.records.append(_answer_record(answer))
        if answer.idle_ties:
            table.notes.append(
                f"{answer.setting.task.problem} on {answer.setting.task.dataset}, {suite.titles[answer.setting]}: training without any "
                "hypergradient ties with the best, so this setting does not separate the methods."
            )
    state_marks(table, _shown(found, trains=True))
    return table


def cost_answer_table(suite: Suite, found: list[Answer]) -> Table:
    """Return, for each setting that measures cost only, the cheapest methods, exact ones apart."""
    table = Table(
        "answer-cost",
        "The least cost of one hypergradient, where only cost was measured",
        f"At the setting's largest number of inner steps K. Ratios in parentheses are to "
        f"{suite.baseline}. "
        f"Exact: exact for the hypergradient of the whole unrolled window. Hardware: {', '.join(suite.hardware) or 'none'}.",
        [
            Column("task", "problem", numeric=False),
            Column("setting", "setting", numeric=False),
            Column("inner_steps", "K", description="inner steps per hypergradient"),
            Column("exact_memory", "least memory", "Exact for the unrolled hypergradient", numeric=False),
            Column("exact_time", "fastest", "Exact for the unrolled hypergradient", numeric=False),
            Column("memory", "least memory", "Of all that estimate one", numeric=False),
            Column("time", "fastest", "Of all that estimate one", numeric=False),
            Column("failures", "unfinished runs", numeric=False),
        ],
    )
    for answer in found:
        if answer.setting.trains:
            continue
        row = setting_cells(suite, answer.setting)
        row["inner_steps"] = (
            Cell(numbers.ABSENT)
            if answer.inner_steps is None
            else Cell(numbers.count(answer.inner_steps), answer.inner_steps)
        )
        row["exact_memory"] = _cost_cell(suite, answer.exact_memory, "peak_bytes", False)
        row["exact_time"] = _cost_cell(suite, answer.exact_time, "time_median", False)
        row["memory"] = _cost_cell(suite, answer.least_memory, "peak_bytes", False)
        row["time"] = _cost_cell(suite, answer.fastest, "time_median", False)
        row["failures"] = failures_cell(answer.failures)
        table.rows.append(row)
        table.records.append(_answer_record(answer))
    state_marks(table, _shown(found, trains=False))
    return table


def _shown(found: list[Answer], trains: bool) -> list[Entry]:
    """Return the entries that the table of answers names of settings that train, or of those that do not."""
    return [entry for answer in found if answer.setting.trains == trains for entry in _named(answer)]


def _named(answer: Answer) -> list[Entry]:
    chosen = (
        answer.best,
        *answer.tied,
        answer.exact_memory,
        answer.exact_time,
        answer.least_memory,
        answer.fastest,
    )
    return [entry for entry in chosen if entry is not None]


def _cost_cell(suite: Suite, entry: Entry | None, name: str, steps: bool) -> Cell:
    if entry is None:
        return Cell(numbers.ABSENT)
    if name == "peak_bytes":
        value, ratio = numbers.memory(entry.peak_bytes), entry.memory_ratio
    else:
        value, ratio = numbers.seconds(entry.time_median), entry.time_ratio
    return _entry_cell(suite, entry, f"{value} ({numbers.ratio(ratio)})" if ratio is not None else value, steps)


def _answer_record(answer: Answer) -> dict[str, Any]:
    setting, best = answer.setting, answer.best

    def name(entry: Entry | None) -> str | None:
        return entry.label if entry else None

    def certificate(entry: Entry | None) -> str | None:
        return short(entry.verdict) if entry else None

    return {
        **setting_record(setting),
        "best": name(best),
        "best_certificate": certificate(best),
        **estimate_record("quality", best.quality if best else None),
        "tied": "; ".join(entry.label for entry in answer.tied if entry is not best),
        "tied_certificates": "; ".join(short(entry.verdict) for entry in answer.tied if entry is not best),
        "least_memory": name(answer.least_memory),
        "least_memory_certificate": certificate(answer.least_memory),
        "least_memory_bytes": answer.least_memory.peak_bytes if answer.least_memory else None,
        "fastest": name(answer.fastest),
        "fastest_certificate": certificate(answer.fastest),
        "fastest_s": answer.fastest.time_median if answer.fastest else None,
        "exact_least_memory": name(answer.exact_memory),
        "exact_least_memory_certificate": certificate(answer.exact_memory),
        "exact_fastest": name(answer.exact_time),
        "exact_fastest_certificate": certificate(answer.exact_time),
        "exceed_rounding": "; ".join(dict.fromkeys(entry.label for entry in _named(answer) if entry.inexact)),
        "runs": answer.runs,
        "failures": "; ".join(f"{status}={number}" for status, number in answer.failures.items()),
    }


def glance_table(suite: Suite, found: list[Glance]) -> Table:
    """Return each method over all settings."""
    reference = reference_label(suite)
    table = Table(
        "methods",
        "Each method at a glance",
        f"Over all settings. Beats {reference}: chance that a run has better quality than a run of {reference}, averaged over settings, "
        f"with a {numbers.NOMINAL} interval that resamples seeds within each setting, never settings; a failed run counts as a loss, "
        f"unless the method does not apply (unsupported). Ratios: cost over that of {suite.baseline} under equal conditions, "
        "median of one value per setting [range of all], each method over its own settings: "
        "rows over different numbers of settings are not comparable.",
        [
            Column("label", "method", numeric=False),
            Column("target", "target", numeric=False),
            Column("exact", "exact", numeric=False),
            Column(
                "ties",
                "best or ties",
                "Test quality",
                "settings in which every seed finished and the method has the best quality, or its interval overlaps that of the best",
            ),
            Column(
                "improvement",
                f"beats {reference}",
                "Test quality",
                f"chance of improvement [{numbers.NOMINAL} interval]",
            ),
            Column(
                "ratio_settings",
                "settings",
                f"Cost over {suite.baseline}",
                "settings over which the medians of cost are taken",
            ),
            Column("memory_ratio", "memory", f"Cost over {suite.baseline}", "peak bytes of one hypergradient"),
            Column("time_ratio", "time", f"Cost over {suite.baseline}", "median time of one hypergradient"),
            Column(
                "cosine",
                "least cosine",
                "Hypergradient",
                "the lowest cosine with the exact unrolled hypergradient, over all settings; of the mean draw if the method draws",
            ),
            Column(
                "own_error",
                "own error",
                "Hypergradient",
                "the largest relative error against its own target, over all settings",
            ),
            Column("failures", "unfinished runs", numeric=False),
        ],
    )
    first = {entry.label: entry for entry in reversed(suite.entries)}
    for glance in found:
        entry = first[glance.label]
        improvement = chance_cell(glance.improvement)
        table.rows.append(
            {
                "label": Cell(
                    glance.label,
                    glance.label,
                    label=glance.label,
                    doubt=doubt(suite.verdicts[glance.label]),
                    inexact=suite.inexact[glance.label],
                ),
                "target": Cell(entry.target, entry.target),
                "exact": exact_cell(entry),
                "ties": Cell(f"{glance.best_or_tied} of {glance.quality_settings}", glance.best_or_tied)
                if glance.quality_settings
                else Cell(numbers.ABSENT),
                "improvement": improvement,
                "ratio_settings": Cell(numbers.count(glance.ratio_settings), glance.ratio_settings)
                if glance.ratio_settings
                else Cell(numbers.ABSENT),
                "memory_ratio": _spread_cell(glance.memory_ratio),
                "time_ratio": _spread_cell(glance.time_ratio),
                "cosine": _cosine_cell(glance),
                "own_error": Cell(numbers.plain(glance.own_error, 2), glance.own_error),
                "failures": Cell(
                    f"of {numbers.count(glance.runs)}" if glance.failures else f"0 of {numbers.count(glance.runs)}",
                    float(glance.runs - glance.ok),
                    badges=tuple(glance.failures.items()),
                ),
            }
        )
        table.records.append(
            {
                "label": glance.label,
                "target": entry.target,
                "exact": entry.exact,
                "certificate": short(suite.verdicts[glance.label]),
                "exceeds_rounding": bool(suite.inexact[glance.label]),
                "best_or_tied": glance.best_or_tied,
                "quality_settings": glance.quality_settings,
                **estimate_record("improvement", glance.improvement),
                "improvement_over": reference,
                "improvement_settings": glance.improvement_tasks,
                "ratio_settings": glance.ratio_settings,
                **_spread_record("memory_ratio", glance.memory_ratio),
                **_spread_record("time_ratio", glance.time_ratio),
                "least_cosine": glance.cosine,
                "largest_own_error": glance.own_error,
                "samples_of_a_method_that_draws": glance.samples,
                "runs": glance.runs,
                "ok": glance.ok,
            }
        )
    drawn = sorted({glance.samples for glance in found if glance.samples})
    if drawn:
        table.caption += (
            f" Mean draw: the cosine of the mean over draws, of {' or '.join(map(str, drawn))} samples per seed, since one draw is "
            "noise; its own error is that of single draws, noise and scale included."
        )
    state_marks(table, suite.entries)
    table.drop_absent(("ties", "improvement", "ratio_settings", "memory_ratio", "time_ratio", "cosine", "own_error"))
    return table


def _cosine_cell(glance: Glance) -> Cell:
    if glance.cosine is None:
        return Cell(numbers.ABSENT)
    words = " (mean draw)" if glance.samples else ""
    return Cell(f"{numbers.cosine(glance.cosine)}{words}", glance.cosine, title=repr(glance.cosine))


def _spread_cell(spread: tuple[float, float, float] | None) -> Cell:
    if spread is None:
        return Cell(numbers.ABSENT)
    median, low, high = spread
    return Cell(f"{numbers.ratio(median)} [{numbers.significant(low)}, {numbers.significant(high)}]", median)


def _spread_record(name: str, spread: tuple[float, float, float] | None) -> dict[str, float | None]:
    median, low, high = spread or (None, None, None)
    return {f"{name}_median": median, f"{name}_least": low, f"{name}_greatest": high}


def _entry_cell(suite: Suite, entry: Entry | None, value: str, steps: bool) -> Cell:
    if entry is None:
        return Cell(numbers.ABSENT)
    text = f"{value} (K = {numbers.count(entry.inner_steps)})" if steps else value
    return label_cell(entry, text)
