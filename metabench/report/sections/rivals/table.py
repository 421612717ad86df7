"""The tables of a study of two methods: a problem's quality between its references, its memory and its time."""

from __future__ import annotations

from collections.abc import Sequence

from metabench.report import numbers
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.frame import estimate_columns
from metabench.report.results.settings import Task
from metabench.report.sections.rivals.matches import Match
from metabench.report.tables.cells import bytes_cell, estimate_cell, time_cell
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.report.verdicts import compare


def task_table(suite: Suite, task: Task, found: Sequence[Match], rival: str) -> Table:
    """Return a row for every entry of a task's matches, below the references that it is judged between."""
    metric = next((entry.metric for match in found for entry in match.entries.values() if entry.metric), "quality")
    table = Table(
        f"rivals-{task.slug}",
        f"{task.problem} on {task.dataset}",
        f"Quality: {metric}, mean and 95 % interval; against {rival}: paired over seeds, Holm over the methods. Gap closed: of "
        f"that between baseline and oracle. Memory and time: one hypergradient, and over that of {rival}.",
        [
            Column("setting", "setting", numeric=False),
            Column("label", "method", numeric=False),
            Column("quality", "quality"),
            Column("verdict", f"against {rival}", numeric=False),
            Column("closed", "gap closed"),
            Column("memory", "peak", "memory"),
            Column("memory_ratio", "ratio", "memory"),
            Column("time", "median", "time"),
            Column("time_ratio", "ratio", "time"),
            Column("train", "training", description="meta-training of one seed"),
        ],
    )
    for match in found:
        (against,) = match.of(rival)[:1]
        samples = {label: entry.quality_by_seed for label, entry in match.entries.items() if entry.quality_by_seed}
        verdicts = compare(samples, against.label, against.higher_is_better) if against.label in samples else {}
        shown = [(name, entry) for name, entry in match.references.items() if entry not in match.entries.values()]
        shown += [(_reference_of(match, entry), entry) for entry in match.entries.values()]
        for name, entry in shown:
            verdict = verdicts.get(entry.label) if entry in match.entries.values() else None
            words = verdict.text if verdict else numbers.ABSENT
            closed = match.closed(entry)
            ratios = {
                what: _ratio(getattr(entry, what), getattr(against, what)) for what in ("peak_bytes", "time_median")
            }
            failed = tuple(entry.failures.items())
            table.rows.append(
                {
                    "setting": Cell(suite.titles[match.setting], suite.titles[match.setting]),
                    "label": Cell(name or entry.label, name or entry.label, label="" if name else entry.label),
                    "quality": Cell("", badges=failed) if entry.failed else estimate_cell(entry.quality),
                    "verdict": Cell(words, words),
                    "closed": exact_cell(
                        numbers.ABSENT if closed is None else f"{numbers.plain(100 * closed)} %", closed
                    ),
                    "memory": bytes_cell(entry.peak_bytes),
                    "memory_ratio": exact_cell(numbers.ratio(ratios["peak_bytes"]), ratios["peak_bytes"]),
                    "time": time_cell(entry),
                    "time_ratio": exact_cell(numbers.ratio(ratios["time_median"]), ratios["time_median"]),
                    "train": exact_cell(numbers.seconds(entry.train), entry.train),
                }
            )
            table.records.append(
                {
                    "setting": suite.titles[match.setting],
                    "label": entry.label,
                    "reference": name,
                    **estimate_columns(metric, entry.quality),
                    "verdict": words,
                    "gap_closed": closed,
                    "peak_bytes": entry.peak_bytes,
                    "time_median_s": entry.time_median,
                    **{f"{what}_ratio": value for what, value in ratios.items()},
                    "train_s": entry.train,
                    "n_params": entry.n_params,
                    "n_meta": entry.n_meta,
                }
            )
    table.drop_absent(("quality", "verdict", "closed", "train"))
    return table


def _reference_of(match: Match, entry: Entry) -> str:
    """Return the name by which an entry of the match is a reference, as `baseline`; empty if it is none."""
    return next((name for name, one in match.references.items() if one is entry), "")


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None
