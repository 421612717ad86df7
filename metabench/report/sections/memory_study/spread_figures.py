"""A memory study over all configurations: sorted gains, gain against cost, time against arithmetic."""

from __future__ import annotations

from collections.abc import Callable

from metabench.report.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.figures.parts import joined
from metabench.report.sections.memory_study.figure_parts import comparison_note, memory_figure
from metabench.report.sections.memory_study.study import FOURFOLD, Comparison, Study

_GAINS: tuple[tuple[str, Callable[[Comparison], float | None]], ...] = (
    ("dynamic", lambda one: one.dynamic_gain),
    ("total", lambda one: one.total_gain),
)


def spread_figure(study: Study) -> Figure | None:
    """The sorted gains of each label over all configurations."""
    panels = []
    for word, gain_of in _GAINS:
        points: list[Point] = []
        notes: dict[str, str] = {}
        for label in study.labels:
            mine = [(gain, one) for one in study.of(label) if (gain := gain_of(one)) is not None]
            mine.sort(key=lambda pair: pair[0])
            notes[label] = f"≥ 4×: {sum(gain >= FOURFOLD for gain, _ in mine)} of {len(mine)}"
            shares = (100 * (place + 0.5) / len(mine) for place in range(len(mine)))
            points += [_point(study, one, share, gain) for share, (gain, one) in zip(shares, mine, strict=True)]
        share = Axis("configurations, sorted by gain (%)", "plain", log=False)
        rules = [Rule("x", FOURFOLD, "4×"), Rule("x", 1.0, "no gain")]
        panels.append(
            Panel(
                f"{word.capitalize()} memory",
                share,
                _gain(study, word),
                points,
                joined(points),
                notes=notes,
                rules=rules,
            )
        )
    return memory_figure(
        study,
        "study_spread",
        "Gains over all configurations, sorted",
        "Each point is one configuration, the best at the right. Labels with options were not measured in every configuration",
        _with_points(panels),
    )


def trade_figure(study: Study) -> Figure | None:
    """Gain in memory against the time that it costs."""
    panels = []
    for word, gain_of in _GAINS:
        points = [
            _point(study, one, slowdown, gain)
            for label in study.labels
            for one in study.of(label)
            if (gain := gain_of(one)) is not None and (slowdown := one.slowdown) is not None
        ]
        rules = [Rule("x", 1.0), Rule("y", 1.0), Rule("both", 1.0, "gain = cost")]
        panels.append(Panel(f"{word.capitalize()} memory", _slowdown(study), _gain(study, word), points, rules=rules))
    return memory_figure(
        study,
        "study_trade",
        "Gain in memory against its cost in time",
        "Each point is one configuration; upper left is better. Below the rising dotted line, a method saves less memory than it costs "
        "in time",
        _with_points(panels),
    )


def arithmetic_figure(study: Study) -> Figure | None:
    """Time against arithmetic, both over the reference."""
    points = [
        _point(study, one, arithmetic, slowdown)
        for label in study.labels
        for one in study.of(label)
        if (arithmetic := one.arithmetic) is not None and (slowdown := one.slowdown) is not None
    ]
    operations = Axis(f"floating-point operations over those of {study.reference}", "ratio")
    rules = [Rule("both", 1.0, "time = arithmetic"), Rule("y", 4 / 3, "4/3")]
    return memory_figure(
        study,
        "study_arithmetic",
        "Time and arithmetic",
        "Each point is one configuration. Operations are those that PyTorch counts, matrix products and convolutions; 4/3 is mixed mode "
        "that rematerialises nothing",
        _with_points([Panel("All configurations", operations, _slowdown(study), points, rules=rules)]),
    )


def _point(study: Study, one: Comparison, x: float, y: float) -> Point:
    return Point(one.run.label, x, y, n=one.run.ok, note=comparison_note(study, one))


def _gain(study: Study, word: str) -> Axis:
    return Axis(f"{word} memory, {study.reference} over method", "ratio")


def _slowdown(study: Study) -> Axis:
    return Axis(f"time over that of {study.reference}", "ratio")


def _with_points(panels: list[Panel]) -> list[Panel]:
    return [panel for panel in panels if len(panel.points) > 1]
