"""The tables of a memory study: every configuration against its floors, and how memory grows along each sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metabench.report import numbers
from metabench.report.results.entries import Entry, Suite
from metabench.report.sections.memory_study.study import Comparison, Study, too_large
from metabench.report.sections.memory_study.sweeps import axis_name, configuration_words, growths, sweeps
from metabench.report.tables.cells import bytes_cell
from metabench.report.tables.certificate_words import label_cell, state_marks
from metabench.report.tables.table import Cell, Column, Table

_RATIOS: tuple[tuple[str, str, str, str, Callable[[Comparison], float | None]], ...] = (
    (
        "dynamic_gain",
        "dynamic",
        "Times less memory",
        "dynamic memory of {reference} over its own",
        lambda one: one.dynamic_gain,
    ),
    ("total_gain", "total", "Times less memory", "peak of {reference} over its own", lambda one: one.total_gain),
    (
        "against_recomputation",
        "than unrolled_remat",
        "Times less memory",
        "dynamic memory of unrolled_remat, recomputation step by step, over its own",
        lambda one: one.against_recomputation,
    ),
    (
        "over_floor",
        "over floor",
        "Memory",
        "dynamic memory over the analytic floor of mixed mode",
        lambda one: one.over_floor,
    ),
    (
        "arithmetic",
        "operations",
        "Over {reference}",
        "floating-point operations over those of {reference}",
        lambda one: one.arithmetic,
    ),
    ("slowdown", "time", "Over {reference}", "median time over that of {reference}", lambda one: one.slowdown),
)


def study_tables(suite: Suite, study: Study) -> list[Table]:
    """Return the tables of the suite's memory study."""
    return [_numbers_table(study), *([grown] if (grown := _growth_table(suite, study)).rows else [])]


def _numbers_table(study: Study) -> Table:
    columns = [
        Column("configuration", "configuration", numeric=False),
        Column("label", "method", numeric=False, description="method with the options that differ from its defaults"),
        Column("status", "status", numeric=False, description="outcome of the run"),
        Column("dynamic", "dynamic", "Memory", "peak minus what was live before the hypergradient began"),
        Column(
            "static",
            "static",
            "Memory",
            "what the method is given: parameters, optimiser state, meta-parameters, batches",
        ),
        Column("floor", "floor", "Memory", "analytic floor of mixed mode's dynamic memory, trajectory saved"),
    ]
    first = [ratio for ratio in _RATIOS if ratio[2] == "Memory"]
    for name, header, group, description, _ in first + [ratio for ratio in _RATIOS if ratio not in first]:
        who = {"reference": study.reference}
        columns.append(Column(name, header, group.format(**who), description.format(**who)))
    columns += [
        Column("predicted", "peak", "Predicted", "peak memory predicted without a run"),
        Column("predicted_gain", "times less", "Predicted", f"predicted peak of {study.reference} over its own"),
        Column(
            "worth",
            "worth it",
            numeric=False,
            description="by the whole peak: less memory, and more saved than it costs in time",
        ),
    ]
    table = Table(
        "memory-study",
        f"Memory and time against {study.reference}, and against their floors",
        f"One row per configuration and method. Times less memory: {study.reference}'s bytes over the method's, higher is better. "
        "The analytic floor is that of mixed mode with the trajectory saved. Cells predicted not to fit were not run: they need a GPU.",
        columns,
    )
    for configuration, runs in study.runs.items():
        compared = {one.run.label: one for one in study.comparisons if one.configuration == configuration}
        words = (
            f"{configuration.task.problem} on {configuration.task.dataset}: {configuration_words(study, configuration)}"
        )
        for label, run in runs.items():
            table.rows.append(_row(words, run, compared.get(label)))
            table.records.append(_record(words, run, compared.get(label)))
    table.drop_absent(("floor", "predicted", "predicted_gain", *(name for name, *_ in _RATIOS)))
    state_marks(table, study.entries)
    return table


def _row(words: str, entry: Entry, compared: Comparison | None) -> dict[str, Cell]:
    message = "; ".join(text for text in entry.messages.values() if text and entry.failed)
    message = "predicted not to fit: needs a GPU" if too_large(entry) else message
    row = {
        "configuration": Cell(words, words, title=f"cell {', '.join(entry.cells)}"),
        "label": label_cell(entry),
        "status": Cell(message, float(entry.seeds - entry.ok), badges=tuple(entry.statuses.items())),
        "dynamic": bytes_cell(entry.dynamic_bytes),
        "static": bytes_cell(entry.static_bytes),
        "floor": bytes_cell(entry.floor_bytes),
        "predicted": bytes_cell(entry.predicted_bytes),
        "predicted_gain": _ratio_cell(compared.predicted_gain if compared else None),
        "worth": _worth_cell(compared),
    }
    return row | {name: _ratio_cell(ratio(compared) if compared else None) for name, _, _, _, ratio in _RATIOS}


def _ratio_cell(value: float | None) -> Cell:
    return Cell(numbers.ratio(value), value, "" if value is None else repr(value))


def _worth_cell(compared: Comparison | None) -> Cell:
    if compared is None or compared.total_gain is None:
        return Cell(numbers.ABSENT)
    why = compared.why_not_worth_it
    return Cell(f"no: {why}" if why else "yes", why or "", tone="" if why else "muted")


def _record(words: str, entry: Entry, compared: Comparison | None) -> dict[str, Any]:
    return {
        "configuration": words,
        "label": entry.label,
        "status": entry.worst_status,
        "n_params": entry.n_params,
        "inner_steps": entry.inner_steps,
        "peak_bytes": entry.peak_bytes,
        "dynamic_bytes": entry.dynamic_bytes,
        "static_bytes": entry.static_bytes,
        "floor_bytes": entry.floor_bytes,
        "predicted_bytes": entry.predicted_bytes,
        "flops": entry.flops,
        "time_median_s": entry.time_median,
        **{name: ratio(compared) if compared else None for name, _, _, _, ratio in _RATIOS},
        "predicted_gain": compared.predicted_gain if compared else None,
        "not_worth_it": compared.why_not_worth_it if compared else "",
    }


def _growth_table(suite: Suite, study: Study) -> Table:
    table = Table(
        "memory-growth",
        "How dynamic memory grows",
        "Slope of a straight line through the dynamic memory along a sweep, by least squares, ± its standard error. Over "
        "parameters: that slope over the bytes of the inner parameters; where the sweep changes their number, over the bytes of parameters "
        "that one unit adds.",
        [
            Column("sweep", "sweep", numeric=False),
            Column("label", "method", numeric=False),
            Column("values", "values", description="places along the sweep"),
            Column("growth", "bytes per unit", description="slope of dynamic memory"),
            Column(
                "over_parameters",
                "over parameters",
                description="slope over the bytes of the parameters, or of those added",
            ),
        ],
    )
    shown = []
    for sweep in sweeps(suite, study):
        if sweep.swept == "size":
            continue  # the size itself is the number of parameters: the figures show it
        for growth in growths(study, sweep):
            entry = next(run for runs in study.runs.values() for label, run in runs.items() if label == growth.label)
            shown.append(entry)
            unit, size = numbers.byte_unit(abs(growth.fit.slope))
            error = growth.fit.standard_error or 0.0
            ratio = growth.over_parameters
            table.rows.append(
                {
                    "sweep": Cell(sweep.title, sweep.title),
                    "label": label_cell(entry),
                    "values": Cell(str(growth.fit.n), growth.fit.n),
                    "growth": Cell(
                        f"{numbers.with_error(growth.fit.slope / size, error / size)} {unit}", growth.fit.slope
                    ),
                    "over_parameters": Cell(numbers.ratio(ratio), ratio, "" if ratio is None else repr(ratio)),
                }
            )
            table.records.append(
                {
                    "sweep": sweep.title,
                    "unit": axis_name(sweep.swept),
                    "label": growth.label,
                    "values": growth.fit.n,
                    "bytes_per_unit": growth.fit.slope,
                    "standard_error": growth.fit.standard_error,
                    "parameter_bytes": growth.parameters,
                    "over_parameters": ratio,
                }
            )
    state_marks(table, shown)
    return table
