"""What one method saves against another, over the number of parameters and of meta-parameters, with what papers measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from metabench.papers.read import papers
from metabench.report.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.figures.parts import family, joined
from metabench.report.palette import assign_styles
from metabench.report.results.entries import Entry, Suite
from metabench.report.sections.rivals.matches import Match

_COSTS = (("Memory", "peak_bytes", "peak_bytes"), ("Time", "time_median", "time_median_s"))
"""Of each panel the word, the figure of an entry that it divides, and its column."""
_PLACES: tuple[tuple[str, Callable[[Entry], int | None]], ...] = (
    ("inner parameters", lambda entry: entry.n_params),
    ("meta-parameters", lambda entry: entry.n_meta),
)


def ratio_figures(suite: Suite, found: Sequence[Match], subject: str, rival: str) -> list[Figure]:
    """Return the ratios of the rival's memory and time to the subject's, against parameters and against meta-parameters.

    A problem has a place in a figure where it has two or more numbers of these.
    """
    figures = []
    for along, place in _PLACES:
        panels, owners = [], dict[str, str]()
        for word, cost, column in _COSTS:
            points, of = _points(suite, found, subject, rival, cost, place)
            owners |= of
            if points:
                axis = Axis(f"{rival} over {subject}", "ratio", log=False)
                rules = [Rule("x", 1.0), *_published(subject, rival, column)]
                panels.append(Panel(word, Axis(along, "count"), axis, points, joined(points), rules=rules))
        if panels:
            figures.append(
                Figure(
                    f"rivals_{along.replace(' ', '_')}",
                    "rivals",
                    f"What {subject} saves against {rival}, over {along}",
                    f"Above 1, {subject} takes less. One hypergradient each, in the same setting; medians over settings of a size. Dotted: "
                    "equal, and what papers measured on their hardware.",
                    panels,
                    styles=assign_styles(list(dict.fromkeys(owners.values())), owners),
                )
            )
    return figures


def _points(
    suite: Suite, found: Sequence[Match], subject: str, rival: str, cost: str, place: Callable[[Entry], int | None]
) -> tuple[list[Point], dict[str, str]]:
    """Return a point for each family of models of a problem and each place, and the problem of each label."""
    ratios: dict[tuple[str, int], list[float]] = {}
    owners: dict[str, str] = {}
    for match in found:
        ours, theirs = match.of(subject)[0], match.of(rival)[0]
        costs, where = (getattr(theirs, cost), getattr(ours, cost)), place(ours)
        if all(costs) and where:
            task = match.setting.task
            label = " · ".join(filter(None, (task.problem, family(suite, task.problem, match.setting.size))))
            owners[label] = task.problem
            ratios.setdefault((label, where), []).append(costs[0] / costs[1])
    points = [Point(label, where, statistics.median(each), n=len(each)) for (label, where), each in ratios.items()]
    several = {label for label in owners if sum(point.label == label for point in points) > 1}
    return [point for point in points if point.label in several], {one: owners[one] for one in owners if one in several}


def _published(subject: str, rival: str, column: str) -> list[Rule]:
    """Return the ratios that papers print of the two methods, the first for each problem."""
    found: dict[str, float] = {}
    for paper in papers().values():
        for figure in paper.figures:
            ends = figure.value.number, figure.against_value.number if figure.against_value else None
            if figure.comparable is None or figure.comparable.column != column:
                continue
            if ends[0] and ends[1] and {figure.method, figure.against} == {subject, rival}:
                ratio = ends[1] / ends[0]
                found.setdefault(figure.comparable.problems[0], ratio if figure.method == subject else 1 / ratio)
    return [Rule("x", ratio, f"{problem}, published") for problem, ratio in found.items()]
