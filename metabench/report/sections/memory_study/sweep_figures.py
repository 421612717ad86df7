"""Memory along each sweep of a study: gains and the floor, static and dynamic memory, and predictions alone."""

from __future__ import annotations

import re
from collections import Counter

from metabench.report import numbers
from metabench.report.drawing.ticks import tick_text
from metabench.report.figure import Axis, Bar, Failure, Figure, Panel, Point, Rule
from metabench.report.figures.parts import joined, thin
from metabench.report.results.entries import Entry, Suite
from metabench.report.sections.memory_study.figure_parts import FLOOR, comparison_note, memory_figure
from metabench.report.sections.memory_study.study import FOURFOLD, Configuration, Study, too_large
from metabench.report.sections.memory_study.sweeps import Sweep, configuration_words


def gain_figure(study: Study, found: list[Sweep]) -> Figure | None:
    """Dynamic memory of the reference over that of each method, along each sweep, with the gain that the floor allows."""
    panels = []
    for sweep in found:
        points = [
            Point(
                comparison.run.label,
                value,
                gain,
                n=comparison.run.ok,
                note=comparison_note(study, comparison),
            )
            for value, configuration in sweep.places
            for comparison in study.comparisons
            if comparison.configuration == configuration and (gain := comparison.dynamic_gain) is not None
        ]
        points = _shown(study, points)
        floors = [
            Point(FLOOR, value, gain, n=1)
            for value, configuration in sweep.places
            if (gain := _floor_gain(study, configuration)) is not None
        ]
        if len({point.x for point in points}) < 2:
            continue
        points += floors
        panels.append(
            Panel(
                sweep.title,
                sweep.axis,
                Axis(f"dynamic memory, {study.reference} over method", "ratio"),
                points,
                joined(points),
                failures=_placed(study, sweep),
                ticks=thin([float(f"{value:.3g}") for value, _ in sweep.places], 7),
                rules=[Rule("x", FOURFOLD, "4×"), Rule("x", 1.0, "no gain")],
            )
        )
    return memory_figure(
        study,
        "study_gain",
        "Gain in dynamic memory, one thing swept at a time",
        f"How many times the dynamic memory {study.reference} takes; higher is better. Grey: what the floor allows. Titles name what "
        "differs from the usual configuration. Strip: no result",
        panels,
    )


def _shown(study: Study, points: list[Point]) -> list[Point]:
    """Drop labels that the study does not show, and labels with options at a single place only."""
    places = Counter(point.label for point in points)
    methods = {one.run.method for one in study.comparisons}
    return [
        point for point in points if point.label in study.labels and (places[point.label] > 1 or point.label in methods)
    ]


def parts_figure(study: Study, found: list[Sweep]) -> Figure | None:
    """Static and dynamic memory as stacked bars along each sweep: the reference, and the methods as they come."""
    plain = [label for label in study.labels if any(one.run.method == label for one in study.of(label))]
    panels = []
    for sweep in found:
        bars = []
        for value, configuration in sweep.places:
            group = numbers.count(int(value)) if value < 1e4 else tick_text("count", float(f"{value:.3g}"), [])
            gains = {one.run.label: one.total_gain for one in study.comparisons if one.configuration == configuration}
            for label in (study.reference, *plain):
                run = study.runs[configuration].get(label)
                if run is not None:
                    bars += _parts(run, group, gains.get(label))
        if any(bar.value for bar in bars):
            axis = Axis("peak memory of one hypergradient", "bytes", log=False)
            panels.append(Panel(sweep.title, sweep.axis, axis, bars=bars))
    return memory_figure(
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


def predicted_figure(suite: Suite, study: Study, found: list[Sweep]) -> Figure | None:
    """Predicted peaks of cells that were not run because they do not fit."""
    panels = []
    for sweep in found:
        points = [
            Point(run.label, value, run.predicted_bytes, n=1, note=configuration_words(study, configuration))
            for value, configuration in sweep.places
            for run in study.runs[configuration].values()
            if too_large(run) and run.predicted_bytes is not None
        ]
        if len({point.x for point in points}) > 1:
            rules = [Rule("x", suite_memory, "the device's memory")] if (suite_memory := device_memory(suite)) else []
            panels.append(
                Panel(
                    sweep.title,
                    sweep.axis,
                    Axis("predicted peak memory", "bytes"),
                    points,
                    joined(points),
                    ticks=thin([float(f"{value:.3g}") for value, _ in sweep.places], 7),
                    rules=rules,
                )
            )
    return memory_figure(
        study,
        "study_predicted",
        "Predicted, for a GPU",
        "Cells that were not run: their peak, predicted without numbers and not measured, does not fit this machine",
        panels,
        measured=False,
    )


def device_memory(suite: Suite) -> int | None:
    """Return the bytes that the suite's configuration declares for its device; None where it declares none."""
    declared = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", str(suite.config.get("device_memory") or "").strip())
    if declared is None:
        return None
    return int(float(declared[1]) * (1024 if declared[3] else 1000) ** ("KMGT".index(declared[2]) + 1))


def _floor_gain(study: Study, configuration: Configuration) -> float | None:
    reference, floor = study.runs[configuration].get(study.reference), study.floor(configuration)
    if reference is None or reference.dynamic_bytes is None or not floor:
        return None
    return reference.dynamic_bytes / floor


def _placed(study: Study, sweep: Sweep) -> list[Failure]:
    """Return what has no result, at its place of the sweep; of labels with options only what the study shows."""
    return [
        Failure(label, run.worst_status, run.seeds, value)
        for value, configuration in sweep.places
        for label, run in study.runs[configuration].items()
        if run.failed and label in (study.reference, *study.labels)
    ]
