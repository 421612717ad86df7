"""Memory and time against model size and against inner steps, with what was fitted."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable

from metabench.report import numbers
from metabench.report.blocks import Note
from metabench.report.figure import Axis, Failure, Figure, Panel, Point
from metabench.report.figures.parts import (
    FIT_AT_LEAST,
    MEMORY,
    TIME,
    Settings,
    cost_of,
    family,
    joined,
    quartiles,
    thin,
)
from metabench.report.results.columns import seeds_word
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import Task, slug
from metabench.results.statistics import line, power_law

PARAMETERS = Axis("inner parameters", "count")
INNER_STEPS = Axis("inner steps K", "count")
_PLACES_AT_LEAST = 3
_NO_FIT = "no fit"

_Title = tuple[str, ...]


def size_figure(suite: Suite, task: Task, settings: Settings) -> Figure | Note:
    """Return memory and time against the number of inner parameters, with the fitted exponent of each method.

    Each family of models has its own panels and exponents: dense and convolutional networks scale differently.
    """
    groups: dict[_Title, list[Entry]] = {}
    parameters: dict[str, int] = {}
    for setting, entries in settings.items():
        of = family(suite, task.problem, setting.size)
        for entry in entries:
            title = (of, setting.problem_variant, f"K = {entry.inner_steps}", *suite.apart(setting.place))
            groups.setdefault(title, []).append(entry)
            if entry.n_params:
                parameters[setting.size] = entry.n_params
    panels = _panels(groups, PARAMETERS, lambda entry: parameters.get(entry.setting.size))
    if not panels:
        return Note(f"Cost against model size: no family of models was measured at {_PLACES_AT_LEAST} sizes or more.")
    return _figure(
        task,
        "scaling_size",
        "Memory and time against model size",
        "b: exponent of y = a xᵇ within one family of models ± its standard error.",
        panels,
    )


def steps_figure(suite: Suite, task: Task, settings: Settings) -> Figure | Note:
    """Return memory and time against the number of inner steps, with the fitted slope of each method."""
    groups: dict[_Title, list[Entry]] = {}
    for setting, entries in settings.items():
        title = (setting.size, setting.problem_variant, *suite.apart(setting.place))
        groups.setdefault(title, []).extend(entries)
    panels = _panels(groups, INNER_STEPS, lambda entry: entry.inner_steps)
    if not panels:
        return Note(
            f"Cost against inner steps: no size was measured at {_PLACES_AT_LEAST} numbers of inner steps or more."
        )
    return _figure(
        task,
        "scaling_steps",
        "Memory and time against inner steps",
        "Per step: slope of a straight line ± its standard error; logarithmic axes bend it.",
        panels,
    )


def _figure(task: Task, kind: str, title: str, fit: str, panels: list[Panel]) -> Figure:
    notes = [note for panel in panels for note in panel.notes.values()]
    if all(note.startswith(_NO_FIT) for note in notes):
        fit = f"Nothing is fitted to fewer than {FIT_AT_LEAST} places."
    caption = f"{fit} Memory: {seeds_word('peak_bytes')} over seeds; time: {seeds_word('time_median_s')}, with quartiles. Strip: no result."
    figure = Figure(slug(kind, task.problem, task.dataset), kind, title, caption, panels)
    figure.keep(2)
    return figure


def _panels(groups: dict[_Title, list[Entry]], x: Axis, place: Callable[[Entry], int | None]) -> list[Panel]:
    """Return a panel for memory and one for time of each group that has enough places, the largest groups first."""
    largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    found = [
        _panel(entries, x, axis, place, " · ".join(filter(None, title)))
        for title, entries in largest_first
        for axis in (MEMORY, TIME)
    ]
    return [panel for panel in found if len({point.x for point in panel.points}) >= _PLACES_AT_LEAST]


def _panel(entries: list[Entry], x: Axis, axis: Axis, place: Callable[[Entry], int | None], title: str) -> Panel:
    """Return one panel of the labels that have two places or more. Entries of one label at one place become their median."""
    grouped: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        if where := place(entry):
            grouped.setdefault((entry.label, where), []).append(entry)
    points: list[Point] = []
    failures: list[Failure] = []
    for (label, where), group in sorted(grouped.items(), key=lambda item: item[0][1]):
        if any(cost_of(entry, axis) for entry in group):
            points.append(_point(label, where, group, axis))
        elif all(entry.failed for entry in group):
            failures.append(Failure(label, group[0].worst_status, sum(entry.seeds for entry in group), where))
    placed: list[Point | Failure] = [*points, *failures]
    places = Counter(one.label for one in placed)
    failures = [failure for failure in failures if places[failure.label] > 1]
    by_label: dict[str, list[Point]] = {}
    for point in points:
        if places[point.label] > 1:
            by_label.setdefault(point.label, []).append(point)
    points = [point for point in points if point.label in by_label]
    notes = {label: text for label, mine in by_label.items() if (text := _note(mine, x, axis))}
    for failure in failures:
        if failure.label not in by_label:
            statuses = sorted({one.status for one in failures if one.label == failure.label})
            notes[failure.label] = f"{', '.join(statuses)} everywhere"
    alike = set(notes.values())
    if len(alike) == 1 and notes.keys() == by_label.keys() and min(alike).startswith(_NO_FIT):
        title, notes = f"{title} · {alike.pop()}", {}
    everywhere = sorted({point.x for point in points} | {one.x for one in failures if one.x is not None})
    return Panel(
        f"{'Memory' if axis is MEMORY else 'Time'} · {title}",
        x,
        axis,
        points,
        joined(points),
        failures=failures,
        notes=notes,
        ticks=thin(everywhere, 8) if x is INNER_STEPS else [],
    )


def _point(label: str, where: int, group: list[Entry], axis: Axis) -> Point:
    measured = [entry for entry in group if cost_of(entry, axis)]
    low, high = (
        [value for value in ends if value] for ends in zip(*(quartiles(one, axis) for one in measured), strict=True)
    )
    return Point(
        label,
        where,
        float(statistics.median(cost_of(entry, axis) or 0.0 for entry in measured)),
        y_low=statistics.median(low) if low and high else None,
        y_high=statistics.median(high) if low and high else None,
        n=sum(entry.seeds for entry in group),
        note=", ".join(dict.fromkeys(f"{one.setting.size}, K={one.inner_steps}" for one in group)),
    )


def _note(points: list[Point], x: Axis, axis: Axis) -> str:
    """Say what fits the points of a label: the exponent of a power law in the size, or the slope of a line in the inner steps."""
    by_size = x is PARAMETERS
    if len(points) < FIT_AT_LEAST:
        return f"{_NO_FIT}: {numbers.plural(len(points), 'size') if by_size else f'{len(points)} K'}"
    fit = (power_law if by_size else line)([point.x for point in points], [point.y for point in points])
    if fit is None:
        return ""
    if by_size:
        return f"b = {numbers.exponent(fit)} ({fit.n} sizes)"
    error = fit.standard_error or 0.0
    unit, size = (numbers.byte_unit if axis is MEMORY else numbers.second_unit)(max(abs(fit.slope), error))
    return f"{numbers.with_error(fit.slope / size, error / size)} {unit} per step"
