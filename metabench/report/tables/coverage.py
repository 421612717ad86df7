"""What ran, and what did not finish. A failed run is a row in its place."""

from __future__ import annotations

from typing import Any

from metabench.report import numbers
from metabench.report.results.certified import doubt, short
from metabench.report.results.entries import Suite
from metabench.report.tables.cells import setting_cells
from metabench.report.tables.certificate_words import label_cell, state_marks
from metabench.report.tables.table import Cell, Column, Table


def coverage_table(suite: Suite) -> Table:
    """Return the status matrix: the outcome of the runs of each method in each setting."""
    labels = list(suite.styles)
    columns = [Column("task", "problem", numeric=False), Column("setting", "setting", numeric=False)]
    columns += [
        Column(
            f"label:{label}",
            label,
            numeric=False,
            doubt=doubt(suite.verdicts[label]),
            inexact=suite.inexact[label],
        )
        for label in labels
    ]
    table = Table(
        "coverage",
        "What ran, and its outcome",
        "Runs by status, one run per seed. A dash: not part of the suite.",
        columns,
    )
    for setting, entries in suite.settings.items():
        row = setting_cells(suite, setting)
        record: dict[str, Any] = {
            "problem": setting.task.problem,
            "dataset": setting.task.dataset,
            "setting": suite.titles[setting],
            "not_certified": "; ".join(dict.fromkeys(entry.label for entry in entries if doubt(entry.verdict))),
            "exceed_rounding": "; ".join(dict.fromkeys(entry.label for entry in entries if entry.inexact)),
        }
        totals: dict[str, dict[str, int]] = {label: {} for label in labels}
        for entry in entries:
            for status, number in entry.statuses.items():
                totals[entry.label][status] = totals[entry.label].get(status, 0) + number
        for label in labels:
            counted = totals[label]
            row[f"label:{label}"] = Cell("" if counted else numbers.ABSENT, badges=tuple(counted.items()))
            record[label] = "; ".join(f"{status}={number}" for status, number in counted.items())
        table.rows.append(row)
        table.records.append(record)
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
    for setting, entries in suite.settings.items():
        for entry in entries:
            for status, number in entry.failures.items():
                row = setting_cells(suite, setting)
                row["label"] = label_cell(entry)
                row["inner_steps"] = Cell(numbers.count(entry.inner_steps), entry.inner_steps)
                row["status"] = Cell("", status, badges=((status, number),))
                row["message"] = Cell(entry.messages.get(status, ""), entry.messages.get(status, ""))
                table.rows.append(row)
                table.records.append(
                    {
                        "problem": setting.task.problem,
                        "dataset": setting.task.dataset,
                        "setting": suite.titles[setting],
                        "label": entry.label,
                        "certificate": short(entry.verdict),
                        "exceeds_rounding": bool(entry.inexact),
                        "inner_steps": entry.inner_steps,
                        "status": status,
                        "runs": number,
                        "message": entry.messages.get(status, ""),
                        "cells": "; ".join(entry.cells),
                    }
                )
    state_marks(table, (entry for entry in suite.entries if entry.failures))
    return table
