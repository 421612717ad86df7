"""Curves of the runs: a figure for each name of a curve, problem and data set, a panel for each setting, a line for each method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from metabench.core.curves import Curve
from metabench.report import numbers
from metabench.report.drawing.traces import ends
from metabench.report.figures.figure import Axis, Failure, Figure, Panel, Trace
from metabench.report.results.entries import Row, Setting, Suite, Task, slug

PANELS_AT_MOST = 24
"""The most panels of a figure; what is beyond them is in further figures."""

_KINDS = {"s": "seconds", "B": "bytes", "byte": "bytes", "bytes": "bytes"}
_LOG_FROM = 6.0  # Over shorter ranges there would be fewer than two round ticks.


@dataclass(frozen=True)
class _Place:
    """What the runs of a panel share. Curves of one name and other axes are in panels of their own."""

    setting: Setting
    inner_steps: int
    outer_steps: int
    along: str = ""
    unit: str = ""


def curve_figures(suite: Suite, task: Task) -> list[Figure]:
    """Return the figures of every curve that a run of a task has, in the order of names; none where no run has any."""
    if not suite.curves:
        return []
    names = dict.fromkeys(name for curves in suite.curves.values() for name in curves)
    rows = [row for row in suite.rows if Task(row["problem"], row["dataset"]) == task]
    return [figure for name in names for figure in _figures(suite, task, name, rows)]


def _figures(suite: Suite, task: Task, name: str, rows: list[Row]) -> list[Figure]:
    found: dict[_Place, dict[str, list[Curve]]] = {}
    without: dict[_Place, dict[tuple[str, str], int]] = {}
    for row in rows:
        place = _Place(Setting.of(row), row["inner_steps"], row["outer_steps"])
        curve = suite.curves.get((row["cell"], row["seed"]), {}).get(name)
        if curve is not None:
            place = _Place(place.setting, place.inner_steps, place.outer_steps, curve.along, curve.unit)
            found.setdefault(place, {}).setdefault(row["label"], []).append(curve)
        elif row["status"] != "ok":
            counts = without.setdefault(place, {})
            counts[row["label"], row["status"]] = counts.get((row["label"], row["status"]), 0) + 1
    if not found:
        return []
    order = {setting: index for index, setting in enumerate(suite.settings)}
    places = sorted(found, key=lambda one: (order[one.setting], one.inner_steps, one.outer_steps, one.along, one.unit))
    panels = [
        _panel(
            name,
            _title(suite, place, places),
            {label: found[place][label] for label in suite.styles if label in found[place]},
            without.get(_Place(place.setting, place.inner_steps, place.outer_steps), {}),
        )
        for place in places
    ]
    caption = _caption(places, [curves for place in places for curves in found[place].values()])
    parts = [panels[start : start + PANELS_AT_MOST] for start in range(0, len(panels), PANELS_AT_MOST)]
    return [
        Figure(
            slug("curve", name, task.problem, task.dataset, *[str(number)] * (len(parts) > 1)),
            "curve",
            name[:1].upper() + name[1:] + f" ({number} of {len(parts)})" * (len(parts) > 1),
            caption,
            part,
            columns=2 if len(part) <= 4 else 3,
        )
        for number, part in enumerate(parts, start=1)
    ]


def _title(suite: Suite, place: _Place, places: list[_Place]) -> str:
    parts = [suite.titles[place.setting], f"K = {place.inner_steps}"]
    beside = [one for one in places if (one.setting, one.inner_steps) == (place.setting, place.inner_steps)]
    if len({one.outer_steps for one in beside}) > 1:
        parts.append(f"{place.outer_steps} outer steps")
    return " · ".join(parts)


def _panel(name: str, title: str, by_label: dict[str, list[Curve]], without: dict[tuple[str, str], int]) -> Panel:
    traces = [trace for label, curves in by_label.items() for trace in _traces(label, curves)]
    every = [curve for curves in by_label.values() for curve in curves]
    first = every[0]
    xs, ys = ends(traces)
    return Panel(
        title,
        _axis(first.along, "", xs, any(curve.log_x for curve in every)),
        _axis(name, first.unit, ys, any(curve.log_y for curve in every)),
        traces=traces,
        failures=[Failure(label, status, runs) for (label, status), runs in without.items()],
    )


def _traces(label: str, curves: list[Curve]) -> list[Trace]:
    """Return the median over the seeds that have the same x, with the least and the greatest; a single seed has its own quartiles."""
    groups: dict[tuple[float, ...], list[Curve]] = {}
    for curve in curves:
        groups.setdefault(tuple(curve.x), []).append(curve)
    found = []
    for x, group in groups.items():
        if len(group) == 1:
            (one,) = group
            found.append(Trace(label, x, tuple(one.values), tuple(one.lower), tuple(one.upper), 1))
            continue
        columns = list(zip(*(curve.values for curve in group), strict=True))
        middle = tuple(statistics.median(column) for column in columns)
        found.append(Trace(label, x, middle, tuple(map(min, columns)), tuple(map(max, columns)), len(group)))
    return found


def _axis(name: str, unit: str, values: Sequence[float], log: bool) -> Axis:
    """Return an axis in its unit. One that asks to be logarithmic is, where its values are positive and far enough apart."""
    kind = _KINDS.get(unit, "plain")
    words = f"{name} ({unit})" if unit and kind == "plain" else name
    log = log and min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    if kind == "plain":
        whole = not unit and all(value == round(value) for value in values)
        kind = "count" if whole else "error" if log else "plain"
    return Axis(words, kind, log=log)


def _caption(places: list[_Place], lines: list[list[Curve]]) -> str:
    counts = sorted({len(curves) for curves in lines})
    seeds = numbers.plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    words = [f"Lines: medians over n = {seeds}."] if counts[-1] > 1 else [f"n = {seeds}."]
    if counts[-1] > 1:
        words.append("Bands: from the least to the greatest seed.")
    if any(len(curves) == 1 and curves[0].lower for curves in lines):
        words.append("Bands of a single seed: its quartiles over tasks.")
    if any(len({tuple(curve.x) for curve in curves}) > 1 for curves in lines):
        words.append("Seeds with values at other x have lines of their own.")
    if any(len(curve.x) > 1 for curves in lines for curve in curves):
        words.append("Markers only tell methods apart.")
    hardware = " and ".join(sorted({place.setting.place.caption for place in places}))
    dtypes = ", ".join(sorted({place.setting.place.dtype for place in places}))
    return " ".join([*words, f"Strip at the right: runs without a result. {hardware}; {dtypes}."])
