"""What ran, and what did not finish. A failed run is a row in its place."""

from __future__ import annotations

from collections import Counter

from metabench.report import numbers
from metabench.report.results.certified import doubt, short
from metabench.report.results.entries import Suite
from metabench.report.tables.cells import setting_cells
from metabench.report.tables.certificate_words import label_cell, state_marks
from metabench.report.tables.table import Cell, Column, Table


def coverage_table(suite: Suite) -> Table:
    """Return the status matrix: the outcome of the runs of each method in each setting."""
    table = Table(
        "coverage",
        "What ran, and its outcome",
        "Runs by status, one run per seed. A dash: not part of the suite.",
        [Column("task", "problem", numeric=False), Column("setting", "setting", numeric=False)],
    )
    for label in suite.styles:
        marks = {"doubt": doubt(suite.verdicts[label]), "inexact": suite.inexact[label]}
        table.columns.append(Column(f"label:{label}", label, numeric=False, **marks))
    for setting, entries in suite.settings.items():
        counted: dict[str, Counter[str]] = {label: Counter() for label in suite.styles}
        for entry in entries:
            counted[entry.label].update(entry.statuses)
        cells = {
            f"label:{label}": Cell("" if counts else numbers.ABSENT, badges=tuple(counts.items()))
            for label, counts in counted.items()
        }
        table.rows.append(setting_cells(suite, setting) | cells)
        table.records.append(
            {
                "problem": setting.task.problem,
                "dataset": setting.task.dataset,
                "setting": suite.titles[setting],
                "not_certified": "; ".join(dict.fromkeys(entry.label for entry in entries if doubt(entry.verdict))),
                "exceed_rounding": "; ".join(dict.fromkeys(entry.label for entry in entries if entry.inexact)),
                **{
                    label: "; ".join(f"{status}={number}" for status, number in counts.items())
                    for label, counts in counted.items()
                },
            }
        )
    state_marks(table, suite.entries)
    return table


def failure_table(suite: Suite) -> Table:
    """Return every group of unfinished runs, with its message."""
    table = Table(
        "failures",
        "Unfinished runs",
        "One row for each method, setting and status.",
        [
            Column("task", "problem", numeric=False),
            Column("setting", "setting", numeric=False),
            Column("label", "method", numeric=False),
            Column("inner_steps", "K", description="inner steps per hypergradient"),
            Column("status", "status", numeric=False),
            Column("message", "message", numeric=False),
        ],
    )
    failed = [entry for entries in suite.settings.values() for entry in entries if entry.failures]
    for entry, status, number in [(one, *failure) for one in failed for failure in one.failures.items()]:
        message = entry.messages.get(status, "")
        table.rows.append(
            {
                **setting_cells(suite, entry.setting),
                "label": label_cell(entry),
                "inner_steps": Cell(numbers.count(entry.inner_steps), entry.inner_steps),
                "status": Cell("", status, badges=((status, number),)),
                "message": Cell(message, message),
            }
        )
        table.records.append(
            {
                "problem": entry.setting.task.problem,
                "dataset": entry.setting.task.dataset,
                "setting": suite.titles[entry.setting],
                "label": entry.label,
                "certificate": short(entry.verdict),
                "exceeds_rounding": bool(entry.inexact),
                "inner_steps": entry.inner_steps,
                "status": status,
                "runs": number,
                "message": message,
                "cells": "; ".join(entry.cells),
            }
        )
    state_marks(table, failed)
    return table
