"""From results.parquet to a `Suite`: the rows of each cell become an entry, and entries are compared with the baseline."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench.report.palette import assign_styles, method_order
from metabench.report.results.certified import read_certificates, verdict
from metabench.report.results.columns import combine, combined, finite, present
from metabench.report.results.entries import DEFAULT_BASELINE, GRADIENT_COLUMNS, Entry, Suite, parse_config
from metabench.report.results.exactness import exceeds, excess
from metabench.report.results.settings import Row, Setting
from metabench.report.results.side_by_side import Rounds
from metabench.results.curves import CURVES_FILE
from metabench.results.metadata import decode_metadata
from metabench.results.pictures import PICTURES_FILE
from metabench.results.schema import BY_NAME, STATUSES
from metabench.results.statistics import Estimate, intervals
from metabench.results.store import read_rows, rows_of


def load_suite(results: Path) -> Suite:
    """Read results.parquet and combine the seeds of each cell; curves are those of curves.parquet next to it. Raises as `read_rows`."""
    table = read_rows(results)
    metadata = decode_metadata(table.schema.metadata)
    every: list[Row] = rows_of(table)
    rows = [row for row in every if not row["replicate"]]
    partners = [row for row in every if row["replicate"]]
    baseline = str(parse_config(metadata.suite).get("baseline") or DEFAULT_BASELINE)
    methods = method_order(metadata.methods, {row["method"] for row in rows})
    styles = assign_styles(methods, {row["label"]: row["method"] for row in rows})
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        # Not by batch: a seed that failed before its first batch has none, and belongs to the same cell.
        grouped.setdefault((Setting.of(row), row["label"], row["inner_steps"], row["outer_steps"]), []).append(row)
    certificates = read_certificates(metadata.certificates)
    entries = [_entry(key[0], group) for key, group in grouped.items()]
    for entry, group in zip(entries, grouped.values(), strict=True):
        entry.verdict = verdict(certificates.get(entry.method), (row["method_hash"] for row in group))
    _add_exactness(entries)
    _add_quality(entries)
    rounds = Rounds(Path(results))
    _add_comparisons(entries, baseline, rounds)
    own = assign_styles(methods, {method: method for method in methods})
    curves = Path(results).with_name(CURVES_FILE)
    known = [file if file.is_file() else None for file in (curves, Path(results).with_name(PICTURES_FILE))]
    suite = Suite(rows, metadata, entries, baseline, styles, own, certificates, *known, partners, rounds)
    _end_at_bounds(suite)
    return suite


def _entry(setting: Setting, rows: list[Row]) -> Entry:
    statuses = Counter(row["status"] for row in rows)
    messages: dict[str, str] = {}
    for row in rows:
        # An ok row may have one as well: what is missing from it.
        if row["message"]:
            messages.setdefault(row["status"], row["message"])
    return Entry(
        setting=setting,
        label=combined(rows, "label"),
        method=combined(rows, "method"),
        target=combined(rows, "target"),
        exact=combined(rows, "exact"),
        inner_steps=combined(rows, "inner_steps"),
        outer_steps=combined(rows, "outer_steps"),
        batch=combined(rows, "batch"),
        cells=tuple(dict.fromkeys(row["cell"] for row in rows)),
        seeds=len(rows),
        statuses={status: statuses[status] for status in STATUSES if statuses[status]},
        messages=messages,
        metric=combined(rows, "metric") or "",
        higher_is_better=combined(rows, "direction") != "min",
        quality_by_seed={
            row["seed"]: row["quality"] for row in rows if row["status"] == "ok" and finite(row["quality"])
        },
        answer_quality=_mean_at_answer(rows, combined(rows, "metric")),
        validation_by_seed={row["seed"]: row["validation_loss"] for row in rows if finite(row["validation_loss"])},
        fingerprints={
            row["seed"]: (digest, row["peak_bytes"])
            for row in rows
            if (digest := row["hypergradient_digest"]) and row["peak_bytes"]
        },
        peak_bytes=combined(rows, "peak_bytes"),
        dynamic_bytes=combined(rows, "dynamic_bytes"),
        static_bytes=combined(rows, "static_bytes"),
        memory_source=combined(rows, "memory_source") or "",
        floor_bytes=combined(rows, "floor_bytes"),
        predicted_bytes=combined(rows, "predicted_bytes"),
        flops=combined(rows, "flops"),
        time_median=combined(rows, "time_median_s"),
        time_q1=combined(rows, "time_q1_s"),
        time_q3=combined(rows, "time_q3_s"),
        first_call=combined(rows, "first_call_s"),
        train=combined(rows, "train_s"),
        gradient={name: combined(rows, name) for name in GRADIENT_COLUMNS},
        # The worst seed decides whether a method is as exact as it is declared, whatever tables show of the column.
        own_error=max(present(rows, "target_error"), default=None),
        yardstick_error=combined(rows, "yardstick_error"),
        samples=combined(rows, "hypergradient_samples"),
        n_params=combined(rows, "n_params"),
        n_meta=combined(rows, "n_meta"),
        problem_options=combined(rows, "problem_options"),
        method_options=combined(rows, "method_options"),
    )


def _mean_at_answer(rows: Sequence[Row], metric: str | None) -> float | None:
    """Return the mean over seeds of a metric at the method's own answer; None where there is none."""
    found = [(row.get("metrics_answer") or {}).get(metric) for row in rows if row["status"] == "ok"]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known else None


def _add_exactness(entries: list[Entry]) -> None:
    """Mark every entry of a label if one of them exceeds rounding: a method that is inexact anywhere is trusted nowhere."""
    worst: dict[str, Entry] = {}
    for entry in entries:
        if exceeds(entry.exact, entry.target, entry.own_error):
            known = worst.setdefault(entry.label, entry)
            worst[entry.label] = max(known, entry, key=lambda one: one.own_error or 0.0)
    for entry in entries:
        if found := worst.get(entry.label):
            task = found.setting.task
            where = f"{task.problem} on {task.dataset}, {found.setting.size}, K = {found.inner_steps}"
            entry.inexact = excess(found.own_error or 0.0, where)


def _add_quality(entries: list[Entry]) -> None:
    """Fill in the interval of quality over seeds, of all entries together."""
    measured = [entry for entry in entries if entry.quality_by_seed]
    samples = [list(entry.quality_by_seed.values()) for entry in measured]
    if BY_NAME["quality"].seeds == "interval":
        estimates = intervals(samples)
    else:
        estimates = [Estimate(combine(sample, "quality"), None, None, len(sample)) for sample in samples]
    for entry, estimate in zip(measured, estimates, strict=True):
        entry.quality = estimate


def _end_at_bounds(suite: Suite) -> None:
    """End intervals of quality where values end, as accuracies do at 100 %: what they cover loses nothing that could be true."""
    for entry in suite.entries:
        metrics = suite.card("problems", entry.setting.task.problem).get("metrics", ())
        bounds = next((metric.get("bounds") for metric in metrics if metric["name"] == entry.metric), None)
        if bounds and entry.quality is not None:
            entry.quality = entry.quality.within(*bounds)


def _add_comparisons(entries: list[Entry], baseline: str, rounds: Rounds) -> None:
    """Fill in ratios to the baseline of the same setting, inner steps and outer steps."""
    references = {entry.group: entry for entry in entries if entry.label == baseline}
    compared = [(entry, references[entry.group]) for entry in entries if entry.group in references]
    for entry, reference in compared:
        entry.memory_ratio = _quotient(entry.peak_bytes, reference.peak_bytes)
        if entry.time_median and reference.time_median:
            entry.time_ratio = rounds.ratio(entry.cells, reference.cells) or entry.time_median / reference.time_median


def _quotient(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None
