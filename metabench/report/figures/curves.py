"""Curves of the runs: the outer loss against steps and seconds, then a figure for each other name, a panel for each setting."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace

from metabench.core.curves import Curve
from metabench.report.figure import Axis, Failure, Figure, Panel, Trace, ends
from metabench.report.figures.parts import seeds
from metabench.report.results.entries import Suite
from metabench.report.results.settings import Row, Setting, Task, slug

OUTER_LOSS, TIME = "outer loss", "time"  # the curves of every run that trains
_SECONDS = "training time"
_KINDS = {"s": "seconds", "B": "bytes", "byte": "bytes", "bytes": "bytes"}
_LOG_FROM = 6.0  # Over shorter ranges there would be fewer than two round ticks.
_DECADES = 100.0  # From this range on, an axis of positive values is logarithmic even if that was not asked for.


@dataclass(frozen=True)
class _Place:
    """What the runs of a panel share. Curves of one name and other axes are in panels of their own."""

    setting: Setting
    inner_steps: int
    outer_steps: int
    along: str = ""
    unit: str = ""


@dataclass(frozen=True)
class _Run:
    """A run's curve of one name. seconds: the training time at each of its steps, where that is known for all."""

    curve: Curve
    seconds: tuple[float, ...] = ()


def curve_figures(suite: Suite, task: Task, shown: Callable[[str], bool] = lambda name: True) -> list[Figure]:
    """Return the figures of the curves of a task's runs whose names are `shown`: the outer loss, then the others by name."""
    if not suite.curves:
        return []
    rows = [row for row in suite.rows if Task(row["problem"], row["dataset"]) == task]
    names = dict.fromkeys([OUTER_LOSS, *sorted({name for curves in suite.curves.values() for name in curves})])
    return [figure for name in filter(shown, names) if (figure := _figure(suite, task, name, rows)) is not None]


def _figure(suite: Suite, task: Task, name: str, rows: list[Row]) -> Figure | None:
    found: dict[_Place, dict[str, list[_Run]]] = {}
    without: dict[_Place, Counter[tuple[str, str]]] = {}
    for row in rows:
        place = _Place(Setting.of(row), row["inner_steps"], row["outer_steps"])
        curves = suite.curves.get((row["cell"], row["seed"]), {})
        if (curve := curves.get(name)) is not None:
            place = replace(place, along=curve.along, unit=curve.unit)
            run = _Run(curve, _clock(curve, curves.get(TIME)) if name == OUTER_LOSS else ())
            found.setdefault(place, {}).setdefault(row["label"], []).append(run)
        elif row["status"] != "ok":
            without.setdefault(place, Counter())[row["label"], row["status"]] += 1
    if not found:
        return None
    size = {entry.setting.size: entry.n_params or 0 for entry in suite.entries if entry.setting.task == task}
    order = list(suite.settings)
    places = sorted(found, key=lambda one: (-size[one.setting.size], order.index(one.setting), *astuple(one)[1:]))
    panels = []
    for place in places:
        title = _title(suite, place, places)
        runs = {label: found[place][label] for label in suite.styles if label in found[place]}
        failures = without.get(replace(place, along="", unit=""), Counter())
        aside = [Failure(label, status, number) for (label, status), number in failures.items()]
        panels.append(_panel(name, title, runs, aside))
        if all(run.seconds for mine in runs.values() for run in mine):
            panels.append(_panel(name, title, runs, aside, against_time=True))
    runs_of_lines = [mine for place in places for mine in found[place].values()]
    figure = Figure(
        slug("curve", name, task.problem, task.dataset),
        "curve",
        f"{name[:1].upper()}{name[1:]}" + (" against outer steps and time" if name == OUTER_LOSS else ""),
        _caption(name, runs_of_lines),
        panels,
    )
    figure.keep({OUTER_LOSS: 2, TIME: 0}.get(name, 1))
    return figure


def _clock(curve: Curve, time: Curve | None) -> tuple[float, ...]:
    """Return the seconds at each x of a curve, empty where the time was not seen at one of them."""
    known = dict(zip(time.x, time.values, strict=True)) if time is not None and time.along == curve.along else {}
    return tuple(known[x] for x in curve.x) if known.keys() >= set(curve.x) else ()


def _title(suite: Suite, place: _Place, places: list[_Place]) -> str:
    parts = [suite.titles[place.setting], f"K = {place.inner_steps}"]
    beside = [one for one in places if (one.setting, one.inner_steps) == (place.setting, place.inner_steps)]
    if len({one.outer_steps for one in beside}) > 1:
        parts.append(f"{place.outer_steps} outer steps")
    return " · ".join(parts)


def _panel(
    name: str, title: str, by_label: dict[str, list[_Run]], failures: list[Failure], against_time: bool = False
) -> Panel:
    traces = [trace for label, runs in by_label.items() for trace in _traces(label, runs, against_time)]
    every = [run.curve for runs in by_label.values() for run in runs]
    xs, ys = ends(traces)
    x = Axis(_SECONDS, "seconds", log=False) if against_time else _axis(every[0].along, "", xs, every, "log_x")
    return Panel(title, x, _axis(name, every[0].unit, ys, every, "log_y"), traces=traces, failures=failures)


def _traces(label: str, runs: list[_Run], against_time: bool) -> list[Trace]:
    """Return the median over the seeds that have the same x, with the least and the greatest; a single seed has its own quartiles.

    against_time: at the median of their seconds instead.
    """
    groups: dict[tuple[float, ...], list[_Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.curve.x), []).append(run)
    found = []
    for steps, group in groups.items():
        x = _medians(run.seconds for run in group) if against_time else steps
        one = group[0].curve
        low, high = tuple(one.lower), tuple(one.upper)
        if len(group) > 1:
            columns = list(zip(*(run.curve.values for run in group), strict=True))
            low, high = tuple(map(min, columns)), tuple(map(max, columns))
        found.append(Trace(label, x, _medians(run.curve.values for run in group), low, high, len(group)))
    return found


def _medians(sequences: Iterable[Sequence[float]]) -> tuple[float, ...]:
    return tuple(statistics.median(column) for column in zip(*sequences, strict=True))


def _axis(name: str, unit: str, values: Sequence[float], curves: list[Curve], asks: str) -> Axis:
    """Return an axis in its unit: logarithmic where values are positive and span decades, or less if a curve asks for it.

    Only values, not places along the x axis, become logarithmic unasked.
    """
    kind = _KINDS.get(unit, "plain")
    words = f"{name} ({unit})" if unit and kind == "plain" else name
    asked = any(getattr(curve, asks) for curve in curves)
    least = _LOG_FROM if asked else _DECADES
    log = (asked or asks == "log_y") and min(values) > 0 and max(values) / min(values) >= least
    if kind == "plain":
        whole = not unit and all(value == round(value) for value in values)
        kind = "count" if whole else "error" if log else "plain"
    return Axis(words, kind, log=log)


def _caption(name: str, lines: list[list[_Run]]) -> str:
    counts = [len(runs) for runs in lines]
    words = [f"Medians over {seeds(counts)}; bands: least to greatest." if max(counts) > 1 else f"{seeds(counts)}."]
    if 1 in counts and any(run.curve.lower for runs in lines for run in runs):
        words.append("Bands of a single seed: quartiles over tasks.")
    if name == OUTER_LOSS:
        words.append("A lower outer loss need not mean a better test quality.")
    return " ".join([*words, "Strip: no result."])
