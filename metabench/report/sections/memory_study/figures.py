"""The figures of a memory study: gains and bytes along each sweep, gain against cost, the method's switches, and predictions alone."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from metabench.report import numbers
from metabench.report.drawing.ticks import tick_text
from metabench.report.figure import Axis, Bar, Failure, Figure, Panel, Point, Rule
from metabench.report.figures.parts import joined, seeds, thin
from metabench.report.palette import INKS, REFERENCE, LabelStyle
from metabench.report.results.entries import Entry, Suite
from metabench.report.results.settings import slug
from metabench.report.sections.memory_study.study import FOURFOLD, Comparison, Study, too_large
from metabench.report.sections.memory_study.sweeps import SWITCHES, Sweep, ablations, configuration_words, sweeps

FLOOR = "analytic floor"
_PANELS_AT_MOST = 3
_STYLES = {FLOOR: LabelStyle("muted", INKS["muted"][0], REFERENCE)}
_LEVELS = (Rule("x", FOURFOLD, "4×"), Rule("x", 1.0, "no gain"))


def study_figures(suite: Suite, study: Study) -> list[Figure]:
    """Return the figures of the suite's memory study that have a panel."""
    found = sweeps(suite, study)
    made = (
        _gain_figure(study, found),
        _parts_figure(study, found),
        _trade_figure(study),
        _ablation_figure(study),
        _predicted_figure(suite, study, found),
    )
    figures = [figure for figure in made if figure.panels]
    for figure in figures:
        figure.styles = _STYLES
        figure.tell_apart(suite.all_styles | _STYLES).keep(_PANELS_AT_MOST)
    return figures


def _figure(study: Study, kind: str, title: str, caption: str, panels: list[Panel]) -> Figure:
    over = seeds({entry.seeds for entry in study.entries if not entry.failed} or {0})
    return Figure(slug(kind), kind, title, f"{caption} ({over}).", panels)


def _along(sweep: Sweep, y: Axis, points: list[Point], **others: Any) -> Panel:
    ticks = thin([float(f"{value:.3g}") for value, _ in sweep.places], 7)
    return Panel(sweep.title, sweep.axis, y, points, joined(points), ticks=ticks, **others)


def _gain_figure(study: Study, found: list[Sweep]) -> Figure:
    """Dynamic memory of the reference over that of each method, along each sweep, with the gain that the floor allows."""
    panels = []
    for sweep in found:
        points = [
            _point(study, one, value, one.dynamic_gain)
            for value, configuration in sweep.places
            for one in study.comparisons
            if one.configuration == configuration and one.dynamic_gain is not None
        ]
        # Labels that the study shows; those with options where they have more than one place.
        places = Counter(point.label for point in points)
        methods = {one.run.method for one in study.comparisons}
        points = [
            one for one in points if one.label in study.labels and (places[one.label] > 1 or one.label in methods)
        ]
        if len({point.x for point in points}) < 2:
            continue
        for value, configuration in sweep.places:
            reference, floor = study.runs[configuration].get(study.reference), study.floor(configuration)
            if reference and reference.dynamic_bytes and floor:
                points.append(Point(FLOOR, value, reference.dynamic_bytes / floor))
        failures = [
            Failure(label, run.worst_status, run.seeds, value)
            for value, configuration in sweep.places
            for label, run in study.runs[configuration].items()
            if run.failed and label in (study.reference, *study.labels)
        ]
        panels.append(_along(sweep, _gain(study, "dynamic"), points, failures=failures, rules=list(_LEVELS)))
    return _figure(
        study,
        "study_gain",
        "Gain in dynamic memory, one thing swept at a time",
        f"How many times the dynamic memory {study.reference} takes; higher is better. Grey: what the floor allows. Titles name what "
        "differs from the usual configuration. Strip: no result",
        panels,
    )


def _parts_figure(study: Study, found: list[Sweep]) -> Figure:
    """Static and dynamic memory as stacked bars along each sweep: the reference, and the methods as they come."""
    panels = []
    for sweep in found:
        bars = []
        for value, configuration in sweep.places:
            group = numbers.count(int(value)) if value < 1e4 else tick_text("count", float(f"{value:.3g}"), [])
            gains = {one.run.label: one.total_gain for one in study.comparisons if one.configuration == configuration}
            for label in (study.reference, *study.methods):
                if run := study.runs[configuration].get(label):
                    bars += _parts(run, group, gains.get(label))
        if any(bar.value for bar in bars):
            axis = Axis("peak memory of one hypergradient", "bytes", log=False)
            panels.append(Panel(sweep.title, sweep.axis, axis, bars=bars))
    return _figure(
        study,
        "study_parts",
        "Static and dynamic memory",
        f"Full colour: dynamic; pale, on top: static. Above a bar: how many times the whole peak {study.reference} takes. Titles name what "
        "differs from the usual configuration",
        panels,
    )


def _parts(entry: Entry, group: str, gain: float | None) -> list[Bar]:
    if entry.dynamic_bytes is None or entry.static_bytes is None:
        return [Bar(entry.label, group, 0.0, "dynamic", status=entry.worst_status)] if entry.failed else []
    words = "" if gain is None else f"{numbers.significant(gain, 2)}×"
    return [
        Bar(entry.label, group, float(entry.dynamic_bytes), "dynamic", words),
        Bar(entry.label, group, float(entry.static_bytes), "static"),
    ]


def _trade_figure(study: Study) -> Figure:
    """Gain in memory against the time that it costs, and that time against arithmetic, over all configurations."""
    every = [one for label in study.labels for one in study.of(label)]
    slowdown = Axis(f"time over that of {study.reference}", "ratio")
    panels = []
    for word in ("dynamic", "total"):
        gains = [(one, gain) for one in every if (gain := getattr(one, f"{word}_gain")) is not None]
        notes = {}
        for label in study.labels:
            mine = [gain for one, gain in gains if one.run.label == label]
            notes[label] = f"≥ 4×: {sum(gain >= FOURFOLD for gain in mine)} of {len(mine)}"
        points = [_point(study, one, one.slowdown, gain) for one, gain in gains if one.slowdown is not None]
        rules = [*_LEVELS, Rule("y", 1.0), Rule("both", 1.0, "gain = cost")]
        panels.append(
            Panel(f"{word.capitalize()} memory", slowdown, _gain(study, word), points, notes=notes, rules=rules)
        )
    points = [
        _point(study, one, one.arithmetic, one.slowdown)
        for one in every
        if one.arithmetic is not None and one.slowdown is not None
    ]
    operations = Axis(f"floating-point operations over those of {study.reference}", "ratio")
    rules = [Rule("both", 1.0, "time = arithmetic"), Rule("y", 4 / 3, "4/3")]
    panels.append(Panel("Time and arithmetic", operations, slowdown, points, rules=rules))
    return _figure(
        study,
        "study_trade",
        "Gain in memory against its cost",
        "One point per configuration; upper left is better. Below the rising line, a method saves less memory than it costs in time. "
        "Operations: matrix products, convolutions; 4/3: mixed mode that rematerialises nothing",
        [panel for panel in panels if len(panel.points) > 1],
    )


def _ablation_figure(study: Study) -> Figure:
    """Memory, time and operations of all combinations of the switches, relative to all of them off."""
    panels, letters, method = [], "", ""
    found = ablations(study)
    for ablation in found:
        base, base_name = ablation.runs[frozenset()], "with all off"
        if base.dynamic_bytes is None and study.reference in study.runs[ablation.configuration]:
            base, base_name = study.runs[ablation.configuration][study.reference], f"of {study.reference}"
        method = method or ablation.method
        letters = ", ".join(
            f"{_letter(switch)}: {SWITCHES.get(switch, switch.replace('_', ' '))}" for switch in ablation.switches
        )
        title = f" · {configuration_words(study, ablation.configuration)}" if len(found) > 1 else ""
        for word, name in (("dynamic memory", "dynamic_bytes"), ("time", "time_median"), ("operations", "flops")):
            below = getattr(base, name)
            bars = []
            for on, run in ablation.runs.items() if below else []:
                group = "+".join(_letter(switch) for switch in ablation.switches if switch in on) or "none"
                if value := getattr(run, name):
                    ratio = value / below
                    bars.append(Bar(ablation.method, group, ratio, run.label, numbers.fixed(ratio, 2)))
                elif run.failed:
                    bars.append(Bar(ablation.method, group, 0.0, run.label, status=run.worst_status))
            if any(bar.value for bar in bars):
                x, y = Axis("switches that are on", "plain"), Axis(f"{word} over that {base_name}", "ratio", log=False)
                panels.append(Panel(f"{word.capitalize()}{title}", x, y, bars=bars))
    return _figure(
        study,
        "study_ablation",
        f"What each switch of {method} does",
        f"All combinations, {letters}. Lower is better; every combination computes the same hypergradient",
        panels,
    )


def _letter(switch: str) -> str:
    return switch[0].upper()


def _predicted_figure(suite: Suite, study: Study, found: list[Sweep]) -> Figure:
    """Predicted peaks of cells that were not run because they do not fit."""
    panels = []
    for sweep in found:
        points = [
            Point(run.label, value, run.predicted_bytes, note=configuration_words(study, configuration))
            for value, configuration in sweep.places
            for run in study.runs[configuration].values()
            if too_large(run) and run.predicted_bytes is not None
        ]
        if len({point.x for point in points}) > 1:
            size = device_memory(suite)
            rules = [Rule("x", size, "the device's memory")] if size else []
            panels.append(_along(sweep, Axis("predicted peak memory", "bytes"), points, rules=rules))
    kind, caption = (
        "study_predicted",
        "Cells that were not run: their peak, predicted and not measured, does not fit this machine.",
    )
    return Figure(slug(kind), kind, "Predicted, for a GPU", caption, panels)


def device_memory(suite: Suite) -> int | None:
    """Return the bytes that the suite's configuration declares for its device; None where it declares none."""
    declared = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", str(suite.config.get("device_memory") or "").strip())
    if declared is None:
        return None
    return int(float(declared[1]) * (1024 if declared[3] else 1000) ** ("KMGT".index(declared[2]) + 1))


def _point(study: Study, one: Comparison, x: float, y: float) -> Point:
    """Return a point that says of which configuration it is, and how far the method is above its floor."""
    words = f"{one.configuration.task.problem}, {configuration_words(study, one.configuration)}"
    over = "" if one.over_floor is None else f"; {numbers.ratio(one.over_floor)} the floor"
    return Point(one.run.label, x, y, n=one.run.ok, note=words + over)


def _gain(study: Study, word: str) -> Axis:
    return Axis(f"{word} memory, {study.reference} over method", "ratio")
