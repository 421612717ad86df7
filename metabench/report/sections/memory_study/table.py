"""The tables of a memory study: every configuration against its floors, and how memory grows along each sweep."""

from __future__ import annotations

from metabench.report import numbers
from metabench.report.results.entries import Entry, Suite
from metabench.report.sections.memory_study.study import Comparison, Study, too_large
from metabench.report.sections.memory_study.sweeps import axis_name, configuration_words, growths, sweeps
from metabench.report.tables.cells import bytes_cell
from metabench.report.tables.certificate_words import label_cell, state_marks
from metabench.report.tables.table import Cell, Column, Table, exact_cell

_RATIOS = (
    "over_floor",
    "dynamic_gain",
    "total_gain",
    "against_recomputation",
    "arithmetic",
    "slowdown",
    "predicted_gain",
)
_BYTES = ("dynamic_bytes", "static_bytes", "floor_bytes", "predicted_bytes")


def study_tables(suite: Suite, study: Study) -> list[Table]:
    """Return the tables of the suite's memory study."""
    return [_numbers_table(study), *([grown] if (grown := _growth_table(suite, study)).rows else [])]


def _numbers_table(study: Study) -> Table:
    whom, less = study.reference, "Times less memory"
    columns = [
        Column("configuration", "configuration", numeric=False),
        Column("label", "method", numeric=False, description="method with the options that differ from its defaults"),
        Column("status", "status", numeric=False, description="outcome of the run"),
        Column("dynamic_bytes", "dynamic", "Memory", "peak minus what was live before the hypergradient began"),
        Column(
            "static_bytes",
            "static",
            "Memory",
            "what the method is given: parameters, optimiser state, meta-parameters, batches",
        ),
        Column("floor_bytes", "floor", "Memory", "analytic floor of mixed mode's dynamic memory, trajectory saved"),
        Column("over_floor", "over floor", "Memory", "dynamic memory over the analytic floor of mixed mode"),
        Column("dynamic_gain", "dynamic", less, f"dynamic memory of {whom} over its own"),
        Column("total_gain", "total", less, f"peak of {whom} over its own"),
        Column(
            "against_recomputation",
            "than unrolled_remat",
            less,
            "dynamic memory of unrolled_remat, recomputation step by step, over its own",
        ),
        Column("arithmetic", "operations", f"Over {whom}", f"floating-point operations over those of {whom}"),
        Column("slowdown", "time", f"Over {whom}", f"median time over that of {whom}"),
        Column("predicted_bytes", "peak", "Predicted", "peak memory predicted without a run"),
        Column("predicted_gain", "times less", "Predicted", f"predicted peak of {whom} over its own"),
        Column("worth", "worth it", "", "by the whole peak: less memory, and more saved than it costs in time", False),
    ]
    table = Table(
        "memory-study",
        f"Memory and time against {whom}, and against their floors",
        f"One row per configuration and method. Times less memory: {whom}'s bytes over the method's, higher is better. "
        "The analytic floor is that of mixed mode with the trajectory saved. Cells predicted not to fit were not run: they need a GPU.",
        columns,
    )
    for configuration, runs in study.runs.items():
        compared = {one.run.label: one for one in study.comparisons if one.configuration == configuration}
        task = configuration.task
        words = f"{task.problem} on {task.dataset}: {configuration_words(study, configuration)}"
        for label, run in runs.items():
            _add(table, words, run, compared.get(label))
    table.drop_absent(("floor_bytes", "predicted_bytes", *_RATIOS))
    state_marks(table, study.entries)
    return table


def _add(table: Table, words: str, entry: Entry, compared: Comparison | None) -> None:
    message = "; ".join(text for text in entry.messages.values() if text and entry.failed)
    message = "predicted not to fit: needs a GPU" if too_large(entry) else message
    why = compared.why_not_worth_it if compared else ""
    ratios = {name: getattr(compared, name, None) for name in _RATIOS}
    known = compared is not None and compared.total_gain is not None
    table.rows.append(
        {
            "configuration": Cell(words, words, title=f"cell {', '.join(entry.cells)}"),
            "label": label_cell(entry),
            "status": Cell(message, float(entry.seeds - entry.ok), badges=tuple(entry.statuses.items())),
            **{name: bytes_cell(getattr(entry, name)) for name in _BYTES},
            **{name: exact_cell(numbers.ratio(ratio), ratio) for name, ratio in ratios.items()},
            "worth": Cell(f"no: {why}" if why else "yes", why, tone="" if why else "muted")
            if known
            else Cell(numbers.ABSENT),
        }
    )
    table.records.append(
        {
            "configuration": words,
            "label": entry.label,
            "status": entry.worst_status,
            **{name: getattr(entry, name) for name in ("n_params", "inner_steps", "peak_bytes", *_BYTES, "flops")},
            "time_median_s": entry.time_median,
            **ratios,
            "not_worth_it": why,
        }
    )


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
            Column("over", "over parameters", description="slope over the bytes of the parameters, or of those added"),
        ],
    )
    entries = {entry.label: entry for entry in reversed(study.entries)}
    shown = []
    for sweep in sweeps(suite, study):
        # Along the size, the number of parameters is what is swept: the figures show it.
        for growth in growths(study, sweep) if sweep.swept != "size" else []:
            fit, ratio = growth.fit, growth.over_parameters
            shown.append(entries[growth.label])
            unit, size = numbers.byte_unit(abs(fit.slope))
            slope = f"{numbers.with_error(fit.slope / size, (fit.standard_error or 0.0) / size)} {unit}"
            table.rows.append(
                {
                    "sweep": Cell(sweep.title, sweep.title),
                    "label": label_cell(entries[growth.label]),
                    "values": Cell(str(fit.n), fit.n),
                    "growth": Cell(slope, fit.slope),
                    "over": exact_cell(numbers.ratio(ratio), ratio),
                }
            )
            table.records.append(
                {
                    "sweep": sweep.title,
                    "unit": axis_name(sweep.swept),
                    "label": growth.label,
                    "values": fit.n,
                    "bytes_per_unit": fit.slope,
                    "standard_error": fit.standard_error,
                    "parameter_bytes": growth.parameters,
                    "over_parameters": ratio,
                }
            )
    state_marks(table, shown)
    return table
