"""Figures of searches: the best net so far, accuracy against steps of adaptation, and regret against what was paid."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from metabench.core.curves import Curve
from metabench.report.figure import Axis, Figure, Panel, Point, Trace
from metabench.report.figures.parts import seeds
from metabench.report.palette import PALETTE, SHAPES, LabelStyle
from metabench.report.results.entries import Suite
from metabench.report.results.settings import slug
from metabench.report.sections.searches.groups import Bench
from metabench.results import searches as names


def best_so_far(suite: Suite, bench: Bench) -> Figure | None:
    """Return the validation fitness of the best net so far against evaluations: a panel for each way to judge nets."""
    entrants = [name for group in bench.groups for name in group.entrants if name != names.BY_HAND]
    panels, counts = [], []
    for group in bench.groups:
        traces = [
            _trace(entrant, curves)
            for entrant in group.entrants
            if (curves := list(group.curves(suite, names.of(entrant, names.BEST)).values()))
        ]
        counts += [trace.n for trace in traces]
        axes = (Axis("evaluations", "count", log=False), Axis(names.BEST, "plain", log=False))
        panels.append(Panel(f"Nets {group.words}", *axes, traces=traces))
    return _figure(
        "best",
        bench,
        "The best net so far, on validation tasks",
        "Means over {seeds}; bands: least to greatest. What is best on validation tasks need not be on test tasks: see the table.",
        panels,
        _styles(entrants),
        counts,
    )


def steps(suite: Suite, bench: Bench) -> Figure | None:
    """Return the accuracy from shared weights against the steps of adaptation: a trace for each way to them."""
    traces = [
        _trace(group.words, curves)
        for group in bench.groups
        if (curves := list(group.curves(suite, names.STEPS).values()))
    ]
    axes = (Axis("steps of adaptation", "count", log=False), Axis(names.STEPS, "plain", log=False))
    counts = [trace.n for trace in traces]
    return _figure(
        "steps",
        bench,
        "From shared weights, after k steps",
        "The mean accuracy of a few nets, the same for all, on test tasks. Means over {seeds}; bands: least to greatest.",
        [Panel("Ways to shared weights", *axes, traces=traces)],
        _styles([trace.label for trace in traces]),
        counts,
    )


def regret(bench: Bench) -> Figure | None:
    """Return the regret of what was chosen against the FLOPs that were paid for the choice, shared weights included.

    Points are labelled by what nets are judged by, or by the strategy where that is one and the same.
    """
    points = []
    for group in bench.groups:
        trained = group.mean(names.TRAINING, names.FLOPS) or 0.0
        for entrant in group.entrants:
            values = list(group.by_seed(entrant, names.REGRET).values())
            paid = (group.mean(entrant, names.FLOPS) or 0.0) + trained
            if not values or not paid or entrant == names.BY_HAND:
                continue
            label, note = (group.words, entrant) if len(bench.groups) > 1 else (entrant, group.words)
            ends = {"y_low": min(values), "y_high": max(values)}
            points.append(Point(label, paid / 1e12, statistics.fmean(values), **ends, n=len(values), note=note))
    axes = (Axis("TFLOPs of the search and of shared weights", "plain"), Axis(names.REGRET, "plain", log=False))
    panel = Panel("What was chosen", *axes, points=points)
    counts = [point.n for point in points]
    return _figure(
        "regret",
        bench,
        "Regret against what was paid",
        "How far each strategy's net, trained from nothing, is below the table's best. Searches on the table have paid for that "
        "training, those on shared weights not. Means over {seeds}, least to greatest.",
        [panel],
        _styles([point.label for point in points]),
        counts,
    )


def _figure(
    name: str,
    bench: Bench,
    title: str,
    caption: str,
    panels: Sequence[Panel],
    styles: Mapping[str, LabelStyle],
    counts: Sequence[int],
) -> Figure | None:
    """Return a figure, `seeds` of its caption filled in; None where it would be empty."""
    if not counts:
        return None
    place = slug("searches", name, bench.name)
    figure = Figure(place, "searches", title, caption.format(seeds=seeds(counts)), list(panels), styles=dict(styles))
    figure.keep(4)
    return figure


def _trace(label: str, curves: Sequence[Curve]) -> Trace:
    """Return the mean over seeds where all have a value, with the least and the greatest."""
    shared = [at for at in curves[0].x if all(at in curve.x for curve in curves)]
    values = [[dict(zip(curve.x, curve.values, strict=True))[at] for curve in curves] for at in shared]
    means = tuple(statistics.fmean(mine) for mine in values)
    low, high = (tuple(end(mine) for mine in values) for end in (min, max))
    return Trace(label, tuple(map(float, shared)), means, low, high, len(curves))


def _styles(labels: Iterable[str]) -> dict[str, LabelStyle]:
    return {
        label: LabelStyle(f"c{place % len(PALETTE)}", PALETTE[place % len(PALETTE)][0], SHAPES[place % len(SHAPES)])
        for place, label in enumerate(dict.fromkeys(labels))
    }
