"""Figures of wide networks and their limit: losses along a run, errors and distances against width, and spectra."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from metabench.kernels.names import DISTANCE, INFINITE, LIMIT_RATE, OWN_RATE, PREDICTED, RELATIVE, TRAINING_LOSS
from metabench.report import numbers
from metabench.report.figure import Axis, Figure, Panel, Point, Rule, Trace
from metabench.report.figures.parts import joined, seeds
from metabench.report.palette import INKS, PALETTE, REFERENCE, SHAPES, LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.results.settings import slug
from metabench.report.sections.kernel_study.study import OUTPUTS, Regime, Widths, unlimited, values
from metabench.results.spectra import EIGENVALUES
from metabench.results.statistics import power_law

_WIDTH = Axis("width", "count")
_GUIDE = "width to the power -1/2"
_OWN, _PREDICTED = "its own kernel as drawn", "predicted"
_STYLES = {_GUIDE: LabelStyle("muted", INKS["muted"][0], REFERENCE)}


def loss_figure(suite: Suite, regime: Regime) -> Figure:
    """Return the training loss against outer steps: a panel for each method, a line for each width, the limit dashed."""
    styles = {_width_name(width): _width_style(place) for place, width in enumerate([*regime.widths, 0])}
    panels = []
    for one in regime.methods:
        if not one.learns:
            continue
        traces = [trace for width in [*one.finite, 0] if (trace := _loss(one, width)) is not None]
        positive = all(y > 0 for trace in traces for y in trace.y)
        axis = Axis(TRAINING_LOSS, "error", log=positive)
        panels.append(Panel(one.label, Axis("outer step", "count", log=False), axis, traces=traces))
    return _figure(
        suite,
        regime,
        "kernel_loss",
        "Training loss by width, and in the limit",
        "Dashed: infinite width. Medians over seeds; bands: least to greatest.",
        panels,
        4,
        styles,
    )


def error_figure(suite: Suite, regime: Regime) -> Figure:
    """Return the distance of the adapted outputs from those of infinite width, against width."""
    panels = []
    for where, which in OUTPUTS.items():
        points, notes = [], {}
        for one in regime.methods:
            points += _points(one, {width: one.errors(width, which) for width in one.finite})
            if (fit := one.slope(which)) is not None:
                notes[one.label] = numbers.exponent(fit)
        panel = Panel(
            f"Outputs on {where}",
            _WIDTH,
            Axis("error relative to infinite width", "error"),
            points,
            joined(points),
            notes=notes,
        )
        panel.traces = _guide(points)
        panels.append(panel)
    return _figure(
        suite,
        regime,
        "kernel_error",
        "How near networks are to the limit",
        "|F - F'| / |F'| of the adapted outputs F, with F' those of infinite width on the same tasks: means over seeds, least to greatest. "
        f"b: exponent of the width ± its standard error. Dashed: {_GUIDE}.",
        [panel for panel in panels if panel.points],
        2,
        _STYLES,
    )


def distance_figure(suite: Suite, regime: Regime) -> Figure:
    """Return how far meta-training moves a network, and relative to where it began."""
    panels = []
    for name, column, rules in ((DISTANCE, "metrics", _limits(regime)), (RELATIVE, "meta_summary", [])):
        points: list[Point] = []
        for one in regime.methods:
            points += _points(one, {width: values(one.runs[width], column, name) for width in one.finite})
        panels.append(
            Panel(name[:1].upper() + name[1:], _WIDTH, Axis("distance", "error"), points, joined(points), rules=rules)
        )
    return _figure(
        suite,
        regime,
        "kernel_distance",
        "How far meta-training moves the parameters",
        "Means over seeds, least to greatest. Dotted: infinite width after as many outer steps.",
        [panel for panel in panels if panel.points],
        2,
    )


def rate_figure(suite: Suite, regime: Regime) -> Figure:
    """Return the rate of the training loss against width, a panel for each exact method, beside what kernels predict."""
    panels = []
    for one in regime.methods:
        if not one.learns or not one.exact:
            continue
        points = _points(one, {width: list(one.rates(width).values()) for width in one.finite})
        own = _points(one, {width: values(one.runs[width], "meta_summary", OWN_RATE) for width in one.finite})
        points += [replace(point, label=_OWN) for point in own]
        limits = values(one.limit, "meta_summary", LIMIT_RATE)
        rules = [Rule("x", statistics.fmean(limits), "infinite, predicted")] if limits else []
        axis = Axis("fall of the log loss in an outer step", "plain", log=False)
        panels.append(Panel(one.label, _WIDTH, axis, points, joined(points), rules=rules))
    return _figure(
        suite,
        regime,
        "kernel_rate",
        "Rates, measured and predicted",
        "Of the training loss over the second half of the run: means over seeds, least to greatest. Beside them the rates that two kernels "
        "predict: the network's own as drawn, and that of infinite width. What is measured beyond its own kernel is what features learn.",
        [panel for panel in panels if panel.points],
        4,
        {_OWN: LabelStyle("muted", INKS["muted"][0], REFERENCE)},
    )


def standard_figure(suite: Suite) -> Figure | None:
    """Return how far networks without a limit move by width, beside what the kernel of each width predicts; None where there are none."""
    panels = []
    for (title, label), by_width in unlimited(suite).items():
        measured = {width: values(runs, "metrics", DISTANCE) for width, runs in by_width.items()}
        found = {width: statistics.fmean(mine) for width, mine in measured.items() if mine and min(mine) > 0}
        one = Widths(label, by_width)
        points = _points(one, measured)
        predicted = {width: values(runs, "meta_summary", PREDICTED) for width, runs in by_width.items()}
        points += [replace(point, label=_PREDICTED) for point in _points(one, predicted)]
        notes = {label: numbers.exponent(power_law(tuple(found), tuple(found.values())))} if len(found) >= 4 else {}
        axis = Axis("distance", "error")
        panels.append(Panel(f"{title}: {label}", _WIDTH, axis, points, joined(points), notes=notes))
    if not panels:
        return None
    figure = Figure(
        "kernel_standard",
        "kernel",
        "How far networks without a limit move",
        "Distance of the parameters from where they began; means over seeds, least to greatest. Predicted: of MAML, by the mean tangent "
        "kernel of networks of that width, after as many outer steps. b: exponent of the width ± its standard error.",
        panels,
        styles={**suite.styles, _PREDICTED: LabelStyle("muted", INKS["muted"][0], REFERENCE)},
    )
    figure.keep(2)
    return figure


def spectra_figure(suite: Suite) -> Figure | None:
    """Return the eigenvalues of each method's map in the complex plane, a panel for each setting; None where no row has any."""
    grouped: dict[str, list[Point]] = {}
    for row in suite.rows:
        curve = suite.curves.get((row["cell"], row["seed"]), {}).get(EIGENVALUES)
        if curve is None or row["seed"] != min(one["seed"] for one in suite.rows if one["cell"] == row["cell"]):
            continue
        title = " · ".join(filter(None, (f"{row['problem']} on {row['dataset']}", row["size"], row["problem_variant"])))
        largest = max(abs(complex(x, y)) for x, y in zip(curve.x, curve.values, strict=True))
        grouped.setdefault(title, []).extend(
            Point(row["label"], x, y)
            for x, y in zip(curve.x, curve.values, strict=True)
            if abs(complex(x, y)) > 1e-10 * largest
        )
    panels = [
        Panel(
            title,
            Axis("real part", "plain", log=False),
            Axis("imaginary part", "plain", log=False),
            points,
            rules=[Rule("y", 0.0)],
        )
        for title, points in grouped.items()
    ]
    if not panels:
        return None
    figure = Figure(
        "kernel_spectra",
        "kernel",
        "What each method's hypergradient is near the start",
        "Eigenvalues of its derivative by the meta-parameters, of the first seed; those that are zero are left out. Left of the line, "
        "descent along the hypergradient diverges at any rate. An exact method's are real.",
        panels,
        styles=suite.styles,
    )
    figure.keep(4)
    return figure


def _loss(one: Widths, width: int) -> Trace | None:
    curves = [run.curves[TRAINING_LOSS] for run in one.runs.get(width, {}).values() if TRAINING_LOSS in run.curves]
    curves = [curve for curve in curves if tuple(curve.x) == tuple(curves[0].x)]
    if not curves:
        return None
    columns = list(zip(*(curve.values for curve in curves), strict=True))
    middle = tuple(statistics.median(column) for column in columns)
    low, high = (tuple(map(end, columns)) if len(curves) > 1 else () for end in (min, max))
    return Trace(_width_name(width), tuple(curves[0].x), middle, low, high, len(curves), dashed=not width)


def _width_name(width: int) -> str:
    return f"width {width:,}" if width else INFINITE


def _width_style(place: int) -> LabelStyle:
    return LabelStyle(f"c{place % len(PALETTE)}", PALETTE[place % len(PALETTE)][0], SHAPES[place])


def _points(one: Widths, by_width: Mapping[int, list[float]]) -> list[Point]:
    """Return a point for each width with values: their mean, and the least and the greatest."""
    return [
        Point(one.label, width, statistics.fmean(mine), y_low=min(mine), y_high=max(mine), n=len(mine))
        for width, mine in by_width.items()
        if mine and min(mine) > 0
    ]


def _limits(regime: Regime) -> list[Rule]:
    """Return how far each method moves the parameters in the limit, after as many outer steps."""
    found = {one.label: values(one.limit, "metrics", DISTANCE) for one in regime.methods if one.learns}
    return [
        Rule("x", statistics.fmean(mine), f"{label}, infinite")
        for label, mine in found.items()
        if mine and min(mine) > 0
    ]


def _guide(points: Sequence[Point]) -> list[Trace]:
    """Return a line of slope -1/2 through the greatest point of the least width."""
    if len({point.x for point in points}) < 2:
        return []
    first, last = min(point.x for point in points), max(point.x for point in points)
    height = max(point.y for point in points if point.x == first)
    return [Trace(_GUIDE, (first, last), (height, height * (first / last) ** 0.5), dashed=True)]


def _figure(
    suite: Suite,
    regime: Regime,
    name: str,
    title: str,
    caption: str,
    panels: list[Panel],
    shown: int,
    styles: Mapping[str, LabelStyle] | None = None,
) -> Figure:
    task = regime.task
    counts = [len(runs) for one in regime.methods for runs in one.runs.values()]
    figure = Figure(
        slug(name, task.problem, task.dataset, regime.words, str(regime.outer_steps)),
        "kernel",
        title,
        f"{caption} {seeds(counts)}.",
        panels,
        styles={**suite.styles, **(styles or {})},
    )
    figure.keep(shown)
    return figure
