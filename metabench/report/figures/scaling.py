"""Memory and time against model size and against inner steps, with what was fitted."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable

from metabench.report import numbers
from metabench.report.blocks import Note
from metabench.report.figures.figure import Axis, Failure, Figure, Panel, Point
from metabench.report.figures.parts import MEMORY, QUARTILES, TIME, Settings, conditions, joined, seeds, thin
from metabench.report.results.columns import seeds_word
from metabench.report.results.entries import Entry, Suite, Task, slug
from metabench.results.statistics import Fit, line, power_law

PARAMETERS = Axis("inner parameters", "count")
INNER_STEPS = Axis("inner steps K", "count")
_SIZES_AT_LEAST = 3


def size_figure(suite: Suite, task: Task, settings: Settings) -> Figure | Note:
    """Return memory and time against the number of inner parameters, with the fitted exponent of each method.

    Each family of models has its own panels and exponents: dense and convolutional networks scale differently.
    """
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for setting, entries in settings.items():
        for entry in entries:
            groups.setdefault(
                (
                    family(setting.size),
                    setting.problem_variant,
                    setting.place,
                    entry.inner_steps,
                ),
                [],
            ).append(entry)
    parameters = {
        (entry.setting.size): entry.n_params for entries in groups.values() for entry in entries if entry.n_params
    }
    panels: list[Panel] = []
    shown: list[Entry] = []
    for key, entries in sorted(groups.items(), key=lambda group: -len(group[1])):
        if (
            len(
                {
                    parameters[entry.setting.size]
                    for entry in entries
                    if not entry.failed and entry.setting.size in parameters
                }
            )
            < _SIZES_AT_LEAST
        ):
            continue
        apart = suite.apart(entries[0].setting.place)
        title = " · ".join(str(part) for part in (f"{key[0]} family", key[1], f"K = {key[3]}", *apart) if part)
        pair = _cost_panels(
            entries, PARAMETERS, lambda entry: parameters.get(entry.setting.size), title, _exponent_note
        )
        panels += pair
        shown += entries if pair else []
    if not panels:
        return Note(
            f"Cost against model size: fewer than {_SIZES_AT_LEAST} sizes of one family were measured with the same inner steps.",
        )
    return Figure(
        slug("scaling_size", task.problem, task.dataset),
        "scaling_size",
        "Memory and time against model size",
        "Logarithmic axes; b: exponent of y = a xᵇ fitted by least squares on logarithms within one family of models, "
        f"± its standard error, over that many sizes. Memory: {seeds_word('peak_bytes')} over {seeds(shown)}; "
        f"time: {seeds_word('time_median_s')}, bars: {QUARTILES}. "
        f"Strip at the top: no result. {conditions(shown)}",
        panels,
    )


def steps_figure(suite: Suite, task: Task, settings: Settings) -> Figure | Note:
    """Return memory and time against the number of inner steps, with the fitted slope of each method."""
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for setting, entries in settings.items():
        for entry in entries:
            groups.setdefault((setting.size, setting.problem_variant, setting.place), []).append(entry)
    panels: list[Panel] = []
    shown: list[Entry] = []
    for key, entries in sorted(groups.items(), key=lambda group: -len(group[1])):
        if len({entry.inner_steps for entry in entries if not entry.failed}) < _SIZES_AT_LEAST:
            continue
        apart = suite.apart(entries[0].setting.place)
        title = " · ".join(str(part) for part in (*key[:2], *apart) if part)
        pair = _cost_panels(entries, INNER_STEPS, lambda entry: entry.inner_steps, title, _slope_note)
        panels += pair
        shown += entries if pair else []
    if not panels:
        return Note(
            f"Cost against inner steps: fewer than {_SIZES_AT_LEAST} numbers of inner steps were measured on one size.",
        )
    return Figure(
        slug("scaling_steps", task.problem, task.dataset),
        "scaling_steps",
        "Memory and time against inner steps",
        "Logarithmic axes. Per step: slope of a straight line fitted by least squares (not on logarithms), ± its standard error. "
        f"Memory: {seeds_word('peak_bytes')} over {seeds(shown)}; time: {seeds_word('time_median_s')}, bars: {QUARTILES}. "
        f"Strip at the top: no result. {conditions(shown)}",
        panels,
    )


def family(size: str) -> str:
    """Return the family of models that a size belongs to, the letters that its name begins with: 'mlp' of 'mlp256'."""
    letters = re.match(r"[a-z]+", size)
    return letters.group() if letters else size


Annotate = Callable[[list[Point], Axis], str]


def _cost_panels(
    entries: list[Entry], x: Axis, place: Callable[[Entry], int | None], title: str, note: Annotate
) -> list[Panel]:
    """Return a panel for memory and one for time. Entries of one label at one place (of several experiments) become their median."""
    panels = []
    for axis, name in ((MEMORY, "peak_bytes"), (TIME, "time_median")):
        points: list[Point] = []
        failures: list[Failure] = []
        grouped: dict[tuple[str, int], list[Entry]] = {}
        for entry in entries:
            where = place(entry)
            if where:
                grouped.setdefault((entry.label, where), []).append(entry)
        for (label, where), group in sorted(grouped.items(), key=lambda item: item[0][1]):
            values = [value for entry in group if (value := getattr(entry, name))]
            if values:
                low = [entry.time_q1 for entry in group if entry.time_q1] if axis is TIME else []
                high = [entry.time_q3 for entry in group if entry.time_q3] if axis is TIME else []
                points.append(
                    Point(
                        label,
                        where,
                        float(statistics.median(values)),
                        y_low=statistics.median(low) if low and high else None,
                        y_high=statistics.median(high) if low and high else None,
                        n=sum(entry.seeds for entry in group),
                        note=", ".join(
                            dict.fromkeys(f"{entry.setting.size}, K={entry.inner_steps}" for entry in group)
                        ),
                    )
                )
            elif all(entry.failed for entry in group):
                failures.append(Failure(label, group[0].worst_status, sum(entry.seeds for entry in group), where))
        if len({point.x for point in points}) < _SIZES_AT_LEAST:
            continue
        lines = joined(points, lambda point: point.label)
        notes = {line_points[0].label: text for line_points in lines if (text := note(line_points, axis))}
        everywhere = {failure.label for failure in failures} - {point.label for point in points}
        for label in everywhere:
            notes[label] = (
                f"{', '.join(sorted({failure.status for failure in failures if failure.label == label}))} everywhere"
            )
        ticks = (
            sorted({point.x for point in points} | {failure.x for failure in failures if failure.x is not None})
            if x is INNER_STEPS
            else []
        )
        panels.append(
            Panel(
                f"{'Memory' if axis is MEMORY else 'Time'} · {title}",
                x,
                axis,
                points,
                lines,
                failures=failures,
                notes=notes,
                ticks=thin(ticks, 8),
            )
        )
    return panels


def _exponent_note(points: list[Point], axis: Axis) -> str:
    if len(points) < _SIZES_AT_LEAST:
        return f"no fit: {numbers.plural(len(points), 'size')}"
    fit = power_law([point.x for point in points], [point.y for point in points])
    return f"b = {numbers.exponent(fit)} ({fit.n} sizes)" if fit else ""


def _slope_note(points: list[Point], axis: Axis) -> str:
    if len(points) < _SIZES_AT_LEAST:
        return "no fit: fewer than 3 K"
    fit = line([point.x for point in points], [point.y for point in points])
    return f"{_slope_words(fit, axis)} per step" if fit else ""


def _slope_words(fit: Fit, axis: Axis) -> str:
    size_of = numbers.byte_unit if axis is MEMORY else numbers.second_unit
    error = fit.standard_error or 0.0
    unit, size = size_of(max(abs(fit.slope), error))
    return f"{numbers.with_error(fit.slope / size, error / size)} {unit}"
