"""Learning curves of optimisers on test tasks, the ones trained on and others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from metabench.core.curves import Curve
from metabench.learned.names import LOSS, on_trial
from metabench.report.figure import Axis, Figure, Panel, Rule, Trace, ends
from metabench.report.figures.parts import seeds
from metabench.report.results.entries import Suite
from metabench.report.sections.learned_optimisers.entrants import Bench, Entrant
from metabench.report.sections.learned_optimisers.tables import bench_name


def curves_figure(suite: Suite, bench: Bench) -> Figure | None:
    """Return the losses of every entrant against the step, a panel for each trial; None where no row has any."""
    panels, counts = [], [0]
    for trial in bench.trials:
        traces = []
        unit = ""
        for one in bench.entrants:
            found = one.curves(suite, on_trial(trial, LOSS))
            if found:
                traces.append(_trace(one, found))
                counts.append(len(found))
                unit = found[0].unit
        if traces:
            panels.append(_panel(bench, trial, traces, unit))
    if not panels:
        return None
    figure = Figure(
        bench_name(bench, "learning_curves"),
        "learning_curves",
        f"Learning curves on test tasks, {bench.task.problem}, {bench.size}",
        f"Loss after each step: median over tasks, of {seeds(counts[1:])} the median. Bands: quartiles over tasks of a single seed, "
        "least to greatest of several. Upright line: the horizon of training.",
        panels,
        styles=bench.styles,
    )
    figure.tell_apart(bench.styles).keep(2)
    return figure


def _trace(one: Entrant, curves: Sequence[Curve]) -> Trace:
    """Return the median over seeds of the medians over tasks, and the range over seeds; of one seed the quartiles over tasks."""
    first = curves[0]
    alike = [curve for curve in curves if list(curve.x) == list(first.x)]
    columns = list(zip(*(curve.values for curve in alike), strict=True))
    low, high = tuple(first.lower), tuple(first.upper)
    if len(alike) > 1:
        low, high = tuple(map(min, columns)), tuple(map(max, columns))
    return Trace(one.name, tuple(first.x), tuple(map(statistics.median, columns)), low, high, len(alike))


def _panel(bench: Bench, trial: str, traces: list[Trace], unit: str) -> Panel:
    xs, ys = ends(traces)
    log = min(ys) > 0 and max(ys) / min(ys) >= 6
    rules = [Rule("y", float(bench.horizon), "horizon")] if max(xs) > bench.horizon else []
    y = Axis(f"loss ({unit})" if unit else "loss", "error" if log else "plain", log=log)
    return Panel(
        trial or f"Tasks trained on · {bench.size}",
        Axis("inner step", "count", log=False),
        y,
        traces=traces,
        rules=rules,
    )
