"""A memory study over all configurations: sorted gains, gain against cost, time against arithmetic."""

from __future__ import annotations

from collections.abc import Callable

from metabench.report.figures.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.figures.parts import joined
from metabench.report.sections.memory_study.figure_parts import comparison_note, memory_figure
from metabench.report.sections.memory_study.study import FOURFOLD, Comparison, Study


def spread_figure(study: Study) -> Figure | None:
    """The sorted gains of each label over all configurations."""
    kinds: tuple[tuple[str, Callable[[Comparison], float | None]], ...] = (
        ("dynamic", lambda one: one.dynamic_gain),
        ("total", lambda one: one.total_gain),
    )
    panels = []
    for word, gain_of in kinds:
        points: list[Point] = []
        notes: dict[str, str] = {}
        for label in study.labels:
            gains = sorted(
                ((gain, one) for one in study.of(label) if (gain := gain_of(one)) is not None), key=lambda pair: pair[0]
            )
            reached = sum(gain >= FOURFOLD for gain, _ in gains)
            if gains:
                notes[label] = f"≥ 4×: {reached} of {len(gains)}"
            points += [
                Point(label, 100 * (place + 0.5) / len(gains), gain, n=one.run.ok, note=comparison_note(study, one))
                for place, (gain, one) in enumerate(gains)
            ]
        if len(points) < 2:
            continue
        panels.append(
            Panel(
                f"{word.capitalize()} memory",
                Axis("configurations, sorted by gain (%)", "plain", log=False),
                Axis(f"{word} memory, {study.reference} over method", "ratio"),
                points,
                joined(points),
                notes=notes,
                rules=[Rule("x", FOURFOLD, "4×"), Rule("x", 1.0, "no gain")],
            )
        )
    return memory_figure(
        study,
        "study_spread",
        "Gains over all configurations, sorted",
        "Each point is one configuration, the best at the right. Labels with options were not measured in every configuration",
        panels,
    )


def trade_figure(study: Study) -> Figure | None:
    """Gain in memory against the time that it costs."""
    panels = []
    for word in ("dynamic", "total"):
        points = [
            Point(label, slowdown, gain, n=one.run.ok, note=comparison_note(study, one))
            for label in study.labels
            for one in study.of(label)
            if (gain := one.dynamic_gain if word == "dynamic" else one.total_gain) is not None
            and (slowdown := one.slowdown) is not None
        ]
        if len(points) < 2:
            continue
        panels.append(
            Panel(
                f"{word.capitalize()} memory",
                Axis(f"time over that of {study.reference}", "ratio"),
                Axis(f"{word} memory, {study.reference} over method", "ratio"),
                points,
                rules=[Rule("x", 1.0), Rule("y", 1.0), Rule("both", 1.0, "gain = cost")],
            )
        )
    return memory_figure(
        study,
        "study_trade",
        "Gain in memory against its cost in time",
        "Each point is one configuration; upper left is better. Below the rising dotted line, a method saves less memory than it costs "
        "in time",
        panels,
    )


def arithmetic_figure(study: Study) -> Figure | None:
    """Time against arithmetic, both over the reference."""
    points = [
        Point(label, arithmetic, slowdown, n=one.run.ok, note=comparison_note(study, one))
        for label in study.labels
        for one in study.of(label)
        if (arithmetic := one.arithmetic) is not None and (slowdown := one.slowdown) is not None
    ]
    if len(points) < 2:
        return None
    panel = Panel(
        "All configurations",
        Axis(f"floating-point operations over those of {study.reference}", "ratio"),
        Axis(f"time over that of {study.reference}", "ratio"),
        points,
        rules=[Rule("both", 1.0, "time = arithmetic"), Rule("y", 4 / 3, "4/3")],
    )
    return memory_figure(
        study,
        "study_arithmetic",
        "Time and arithmetic",
        "Each point is one configuration. Operations are those that PyTorch counts, matrix products and convolutions; 4/3 is mixed mode "
        "that rematerialises nothing",
        [panel],
    )
