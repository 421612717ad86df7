"""Learning curves of optimisers on test tasks, the ones trained on and others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from metabench.core.curves import Curve
from metabench.learned.names import AT_FIRST, LOSS, PERSISTENT, on_trial, trial_of
from metabench.report.figure import Axis, Figure, Panel, Point, Rule, Trace, ends
from metabench.report.figures.parts import joined, seeds
from metabench.report.results.entries import Suite
from metabench.report.sections.learned_optimisers.entrants import Bench, Entrant
from metabench.report.sections.learned_optimisers.tables import bench_name


def curves_figure(suite: Suite, bench: Bench) -> Figure | None:
    """Return the losses of every entrant against the step, a panel for each trial; None where no row has any."""
    panels = [panel for trial in bench.trials if (panel := _learning(suite, bench, trial))]
    if not panels:
        return None
    figure = Figure(
        bench_name(bench, "learning_curves"),
        "learning_curves",
        f"Learning curves on test tasks, {bench.task.problem}, {bench.size}",
        f"Loss after each step: median over tasks, of {_seeds(panels)} the median. Bands: quartiles over tasks of a single seed, "
        "least to greatest of several. Upright line: the horizon of training.",
        panels,
        styles=bench.styles,
    )
    figure.tell_apart(bench.styles).keep(2)
    return figure


def cutting_figure(suite: Suite, bench: Bench) -> Figure | None:
    """Return how well the summed windows of an episode point along its exact hypergradient, against their length K.

    A panel for each optimiser, as it was drawn and as it began where a trained one was given; None where no panel has three K.
    """
    grouped: dict[str, dict[tuple[str, int], dict[int, float]]] = {}
    for row in suite.rows:
        known = row.get("episode_cosine") is not None and "optimiser" in row["problem_options"]
        if known and bench.has_the_episodes_of(row):
            start = row["problem_options"].get("start")
            title = f"{row['problem_options']['optimiser']}, {f'trained ({start})' if start else 'as drawn'}"
            seeds_of = grouped.setdefault(title, {}).setdefault((row["label"], row["inner_steps"]), {})
            seeds_of[row["seed"]] = row["episode_cosine"]
    panels = []
    for title, found in grouped.items():
        points = [
            Point(
                label,
                steps,
                statistics.fmean(by_seed.values()),
                y_low=min(by_seed.values()),
                y_high=max(by_seed.values()),
                n=len(by_seed),
            )
            for (label, steps), by_seed in sorted(found.items())
        ]
        if len({point.x for point in points}) >= 3:
            y = Axis("cosine with the whole episode's", "plain", log=False)
            panels.append(
                Panel(
                    title,
                    Axis("inner steps K", "count"),
                    y,
                    points,
                    joined(points),
                    rules=[Rule("x", 1.0), Rule("x", 0.0)],
                )
            )
    if not panels:
        return None
    figure = Figure(
        bench_name(bench, "cutting_steps"),
        "cutting",
        f"What cutting an episode costs, {bench.task.problem}, {bench.size}",
        f"Cosine of the sum of an episode's hypergradients, window by window of K steps, with the exact one of its {bench.horizon} steps, "
        f"in float64. Means over {seeds(point.n for panel in panels for point in panel.points)}, least to greatest. Dotted: 1 and 0.",
        panels,
        styles=suite.styles,
    )
    figure.keep(2)
    return figure


def response_figure(suite: Suite, bench: Bench) -> Figure | None:
    """Return what each optimiser does: its first step against the gradient, and its steps at one that stays; None where no row says."""
    names = {
        name
        for one in bench.entrants
        for row in one.finished
        for name in suite.curves.get((row["cell"], row["seed"]), ())
    }
    panels = []
    for name in sorted(names):
        axis = next((axis for drawn, axis in _RESPONSES.items() if trial_of(name, drawn) is not None), None)
        traces = _traces(suite, bench, name)
        if axis is None or not traces:
            continue
        ys = [y for trace in traces for y in trace.y]
        log = min(ys) > 0 and max(ys) / min(ys) >= 6
        panels.append(Panel(name, axis, Axis("step down", "error" if log else "plain", log=log), traces=traces))
    if not panels:
        return None
    figure = Figure(
        bench_name(bench, "steps"),
        "steps",
        f"What optimisers do, {bench.task.problem}, {bench.size}",
        f"The step that a parameter takes at gradients given by hand, one element alone; medians over {_seeds(panels)}, least to greatest. "
        "A straight line of slope 1 is gradient descent; a level one takes steps of one length.",
        panels,
        styles=bench.styles,
    )
    figure.tell_apart(bench.styles).keep(2)
    return figure


_RESPONSES = {AT_FIRST: Axis("gradient", "error"), PERSISTENT: Axis("inner step", "count", log=False)}


def _learning(suite: Suite, bench: Bench, trial: str) -> Panel | None:
    """Return the panel of a trial; None where no entrant has its losses."""
    name = on_trial(trial, LOSS)
    traces = _traces(suite, bench, name)
    if not traces:
        return None
    units = [curve.unit for one in bench.entrants for curve in one.curves(suite, name)]
    return _panel(bench, trial, traces, units[0])


def _traces(suite: Suite, bench: Bench, name: str) -> list[Trace]:
    """Return a curve of every entrant that has it."""
    return [_trace(one, found) for one in bench.entrants if (found := one.curves(suite, name))]


def _seeds(panels: Sequence[Panel]) -> str:
    return seeds(trace.n for panel in panels for trace in panel.traces)


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
