"""The table of one setting: every method with its quality and cost, failures in their place."""

from __future__ import annotations

from typing import Any

from metabench.report import numbers
from metabench.report.figures.parts import drawing_methods
from metabench.report.results.answers import answer_setting
from metabench.report.results.certified import short
from metabench.report.results.entries import Entry, Setting, Suite
from metabench.report.tables.cells import (
    bytes_cell,
    estimate_cell,
    estimate_record,
    exact_cell,
    setting_name,
    setting_record,
    status_cell,
    time_cell,
)
from metabench.report.tables.certificate_words import label_cell, state_marks
from metabench.report.tables.table import Cell, Column, Table

_EXACT_GROUP, _OWN_GROUP = "Against the exact unrolled", "Against its own target"
_GRADIENT_COLUMNS = (
    Column(
        "hypergradient_cosine",
        "cosine",
        _EXACT_GROUP,
        "cosine with the exact hypergradient of the whole unrolled window",
    ),
    Column(
        "hypergradient_mean_cosine",
        "cosine of mean draw",
        _EXACT_GROUP,
        "the same cosine of the mean over draws, for methods that draw",
    ),
    Column(
        "hypergradient_norm_ratio", "norm ratio", _EXACT_GROUP, "norm over that of the exact unrolled hypergradient"
    ),
    Column(
        "hypergradient_error",
        "rel. error",
        _EXACT_GROUP,
        "norm of the difference from the exact unrolled hypergradient, over its norm",
    ),
    Column("target_cosine", "cosine", _OWN_GROUP, "cosine with the exact value of the method's own target"),
    Column(
        "target_mean_cosine",
        "cosine of mean draw",
        _OWN_GROUP,
        "the same cosine of the mean over draws, for methods that draw",
    ),
    Column("target_norm_ratio", "norm ratio", _OWN_GROUP, "norm over that of the exact value of its own target"),
    Column(
        "target_error",
        "rel. error",
        _OWN_GROUP,
        "norm of the difference from the exact value of its own target, over its norm",
    ),
)


def setting_table(suite: Suite, setting: Setting, entries: list[Entry]) -> Table:
    """Return the table of one setting: a row for each method, options and number of inner steps, failures included."""
    metric = next((entry.metric for entry in entries if entry.metric), "quality")
    arrow = "↑" if next((entry.higher_is_better for entry in entries if entry.metric), True) else "↓"
    columns = [
        Column("label", "method", numeric=False, description="method with the options that differ from its defaults"),
        Column("status", "status", numeric=False, description="outcome of the runs, one per seed"),
        Column("target", "target", numeric=False, description="what the method estimates"),
        Column("exact", "exact", numeric=False, description="whether it is exact for that target"),
        Column("inner_steps", "K", description="inner steps per hypergradient"),
        Column("quality", f"{metric}\u00a0{arrow}", "Test quality", f"mean and {numbers.INTERVAL_WORDS}"),
        Column(
            "difference",
            f"Δ\u00a0{suite.baseline}",
            "Test quality",
            f"mean over shared seeds of its quality minus that of {suite.baseline}",
        ),
        Column("n", "n", "Test quality", "seeds in the mean"),
        Column("peak", "peak", "Memory", "peak bytes of one hypergradient, everything live included"),
        Column("dynamic", "dynamic", "Memory", "peak minus what was live before the hypergradient began"),
        Column("memory_ratio", "ratio", "Memory", f"peak over that of {suite.baseline}, same inner steps"),
        Column("time", "median [quartiles]", "Time", "time of one hypergradient after warm-up"),
        Column("time_ratio", "ratio", "Time", f"median time over that of {suite.baseline}, same inner steps"),
        *_GRADIENT_COLUMNS,
    ]
    sources = ", ".join(sorted({entry.memory_source for entry in entries if entry.memory_source})) or "not measured"
    trained = any(entry.quality for entry in entries)
    quality = (
        f"Quality: mean and {numbers.INTERVAL_WORDS}; bold: the best, and those that overlap it, among methods whose every seed "
        "finished (if any). "
        if trained
        else ""
    )
    table = Table(
        setting_name(suite, setting),
        f"{setting.task.problem} on {setting.task.dataset}: {suite.titles[setting]}",
        f"{quality}Memory and time are per hypergradient; ratios are to {suite.baseline}, same inner steps. "
        f"{setting.place.dtype} on {setting.place.caption}; memory from: {sources}.{drawing_words(entries)}{_yardstick_words(entries)}",
        columns,
    )
    best = answer_best(setting, entries)
    decimals = (
        numbers.shared_decimals(entry.quality for entry in entries),
        numbers.shared_decimals(entry.difference for entry in entries),
    )
    for entry in entries:
        table.rows.append(_setting_row(entry, best, decimals))
        table.records.append(_record(entry))
    steps = {(entry.inner_steps, entry.outer_steps) for entry in entries}
    batches = {entry.batch for entry in entries if entry.batch}
    optional = [column.key for column in columns if column.group]
    if len(steps) == 1:
        inner, outer = next(iter(steps))
        optional.append("inner_steps")
        table.columns = [column for column in table.columns if column.key != "inner_steps"]
        parts = [numbers.plural(inner, "inner step")]
        parts += [numbers.plural(outer, "meta-update")] * (outer > 0)
        parts += [f"batches of {' or '.join(map(numbers.count, sorted(batches)))}"] if batches else []
        table.caption += f" {', '.join(parts)}."
    table.drop_absent(tuple(optional))
    if not trained:
        table.columns = [column for column in table.columns if column.key not in ("quality", "difference", "n")]
        if not setting.trains:
            table.notes.append("Cost only: this setting does not train, so it has no quality.")
    if not any(entry.memory_ratio or entry.time_ratio for entry in entries):
        table.notes.append(_why_no_ratio(suite.baseline, entries))
    state_marks(table, entries)
    return table


def answer_best(setting: Setting, entries: list[Entry]) -> set[int]:
    """Return the ids of the entries that are best or tie with the best."""
    return {id(entry) for entry in answer_setting(setting, entries).tied}


def _why_no_ratio(baseline: str, entries: list[Entry]) -> str:
    own = [entry for entry in entries if entry.label == baseline]
    if not own:
        return f"No ratios: the baseline '{baseline}' is not among the methods of this setting."
    return f"No ratios: the baseline '{baseline}' has no measurement here ({', '.join(sorted({entry.worst_status for entry in own}))})."


def _setting_row(entry: Entry, best: set[int], decimals: tuple[int | None, int | None]) -> dict[str, Cell]:
    row = {
        "label": label_cell(entry, title=f"cell {', '.join(entry.cells)}"),
        "status": status_cell(entry),
        "target": Cell(entry.target, entry.target),
        "exact": exact_cell(entry),
        "inner_steps": Cell(numbers.count(entry.inner_steps), entry.inner_steps),
        "quality": estimate_cell(entry.quality, decimals=decimals[0], tone="best" if id(entry) in best else ""),
        "difference": estimate_cell(entry.difference, signed=True, decimals=decimals[1]),
        "n": Cell(str(entry.quality.n), entry.quality.n) if entry.quality else Cell(numbers.ABSENT),
        "peak": bytes_cell(entry.peak_bytes),
        "dynamic": bytes_cell(entry.dynamic_bytes),
        "memory_ratio": Cell(numbers.ratio(entry.memory_ratio), entry.memory_ratio),
        "time": time_cell(entry),
        "time_ratio": Cell(numbers.ratio(entry.time_ratio), entry.time_ratio),
    }
    for column in _GRADIENT_COLUMNS:
        row[column.key] = _gradient_cell(entry, column.key)
    return row


def _gradient_cell(entry: Entry, key: str) -> Cell:
    value = entry.gradient[key]
    if value is None:
        return Cell(numbers.ABSENT)
    if not key.endswith("cosine"):
        return Cell(numbers.plain(value), value, title=repr(value))
    spread = entry.gradient.get(f"{key}_sd")
    if spread is None:
        return Cell(numbers.cosine(value), value, title=repr(value))
    title = f"{value!r}; standard deviation {spread!r} over {entry.samples} samples per seed"
    return Cell(f"{numbers.fixed(value, 2)} ± {numbers.fixed(spread, 2)}", value, title=title)


def drawing_words(entries: list[Entry]) -> str:
    """Explain the figures of methods that draw at random; empty if there are none."""
    methods, samples = drawing_methods(entries)
    if not methods:
        return ""
    return (
        f" {methods} draws at random: its cosine is that of one draw ± standard deviation over "
        f"n = {samples} samples per seed, and its relative error includes that noise and the scale of its step."
    )


def _yardstick_words(entries: list[Entry]) -> str:
    """Say how far the exact hypergradient is from plain training; empty where that was not measured."""
    measured = [entry.yardstick_error for entry in entries if entry.yardstick_error is not None]
    if not measured:
        return ""
    return f" The exact hypergradient differs from finite differences of plain training by at most {numbers.significant(max(measured), 2)}."


def _record(entry: Entry) -> dict[str, Any]:
    setting = entry.setting
    return {
        **setting_record(setting),
        "device": setting.place.device,
        "dtype": setting.place.dtype,
        "kernels": setting.place.kernels,
        "instruction_set": setting.place.instruction_set,
        "hardware": entry.hardware,
        "label": entry.label,
        "method": entry.method,
        "target": entry.target,
        "exact": entry.exact,
        "certificate": short(entry.verdict),
        "exceeds_rounding": bool(entry.inexact),
        "inner_steps": entry.inner_steps,
        "outer_steps": entry.outer_steps,
        "batch": entry.batch,
        "runs": entry.seeds,
        "ok": entry.ok,
        "failures": "; ".join(f"{status}={number}" for status, number in entry.failures.items()),
        "message": "; ".join(entry.messages.values()),
        "metric": entry.metric,
        "direction": ("max" if entry.higher_is_better else "min") if entry.metric else "",
        **estimate_record("quality", entry.quality),
        **estimate_record("difference_to_baseline", entry.difference),
        "peak_bytes": entry.peak_bytes,
        "dynamic_bytes": entry.dynamic_bytes,
        "static_bytes": entry.static_bytes,
        "memory_ratio": entry.memory_ratio,
        "memory_source": entry.memory_source,
        "time_median_s": entry.time_median,
        "time_q1_s": entry.time_q1,
        "time_q3_s": entry.time_q3,
        "time_ratio": entry.time_ratio,
        "first_call_s": entry.first_call,
        "train_s": entry.train,
        **entry.gradient,
        "largest_target_error": entry.own_error,
        "largest_yardstick_error": entry.yardstick_error,
        "hypergradient_samples": entry.samples,
        "n_params": entry.n_params,
        "n_meta": entry.n_meta,
    }
