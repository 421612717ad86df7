"""The table of wide networks: what each method comes to in the limit, and how near networks of finite width are."""

from __future__ import annotations

import statistics

from metabench.kernels.names import LIMIT_RATE, OWN_RATE, TEST_LOSS, TEST_OUTPUTS, TRAINING_OUTPUTS
from metabench.report import numbers
from metabench.report.results.settings import slug
from metabench.report.sections.kernel_study.study import Regime, Run, Widths
from metabench.report.tables.table import Cell, Column, Table, exact_cell
from metabench.results.statistics import Fit


def kernel_table(regime: Regime) -> Table:
    """Return a row for each method of a regime."""
    task, widest = regime.task, regime.widths[-1]
    table = Table(
        slug("kernel", task.problem, task.dataset, regime.words, str(regime.outer_steps)),
        f"In the limit and at width {widest:,}",
        f"After {regime.outer_steps} outer steps of {regime.inner_steps} inner steps; means over seeds. Error: of the adapted outputs, "
        "relative to infinite width. Exponent: of that error against width, ± its standard error. Rate: by how much the logarithm of the "
        "training loss falls in an outer step over the second half of the run, over that of infinite width. Own kernel: of exact methods, "
        "as the kernel of the network as drawn predicts it.",
        [
            Column("label", "method", numeric=False),
            Column("limit", "infinite", "test loss"),
            Column("widest", f"width {widest:,}", "test loss"),
            Column("error_training", "training tasks", f"error at width {widest:,}"),
            Column("error_test", "test tasks", f"error at width {widest:,}"),
            Column("slope_training", "training tasks", "exponent"),
            Column("slope_test", "test tasks", "exponent"),
            Column("rate", "measured", "rate over the limit's"),
            Column("own", "own kernel", "rate over the limit's"),
        ],
    )
    for one in regime.methods:
        record = {
            "label": one.label,
            "limit": _loss(one.limit),
            "widest": _loss(one.runs.get(widest, {})),
            "error_training": _mean(one, widest, TRAINING_OUTPUTS),
            "error_test": _mean(one, widest, TEST_OUTPUTS),
            "rate": one.rate_ratio(widest),
            "own": _own_rate(one, widest),
        }
        slopes = {
            f"slope_{which}": one.slope(name)
            for which, name in (("training", TRAINING_OUTPUTS), ("test", TEST_OUTPUTS))
        }
        table.rows.append(
            {name: _cell(value) for name, value in record.items() if name != "label"}
            | {"label": Cell(one.label, one.label, label=one.label)}
            | {name: _slope_cell(fit) for name, fit in slopes.items()}
        )
        table.records.append(record | {name: None if fit is None else fit.slope for name, fit in slopes.items()})
    return table


def _loss(runs: dict[int, Run]) -> float | None:
    found = [value for run in runs.values() if (value := (run.row["metrics"] or {}).get(TEST_LOSS)) is not None]
    return statistics.fmean(found) if found else None


def _mean(one: Widths, width: int, which: str) -> float | None:
    found = one.errors(width, which) if width in one.runs else []
    return statistics.fmean(found) if found else None


def _own_rate(one: Widths, width: int) -> float | None:
    """Return the rate that the network's own kernel predicts, over that of the limit: mean over seeds."""
    if not one.exact:
        return None
    rows = [run.row["meta_summary"] or {} for run in one.runs.get(width, {}).values()]
    found = [row[OWN_RATE] / row[LIMIT_RATE] for row in rows if OWN_RATE in row and row.get(LIMIT_RATE)]
    return statistics.fmean(found) if found else None


def _cell(value: float | None) -> Cell:
    return exact_cell(numbers.ABSENT if value is None else f"{value:.3g}", value)


def _slope_cell(fit: Fit | None) -> Cell:
    if fit is None:
        return Cell(numbers.ABSENT)
    return exact_cell(numbers.exponent(fit), fit.slope)
