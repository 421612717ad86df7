"""The generalisation bound beside the test errors that it is about."""

from __future__ import annotations

import re

from metabench.kernels.families import families
from metabench.report import numbers
from metabench.report.figure import Axis, Figure, Panel, Point, Rule
from metabench.report.palette import PALETTE, SHAPES, LabelStyle
from metabench.report.results.entries import Suite
from metabench.results.bounds import BOUND, COMPLEXITY, TEST_ERROR, with_tasks

_BOUNDS, _RANKS = "Bound", "Complexity"


def bound_figure(suite: Suite) -> Figure | None:
    """Return bound and complexity against test error, a panel for each number of training tasks; None where no row has any."""
    row = next((row for row in suite.rows if row["kind"] == "bound" and row["status"] == "ok"), None)
    if row is None:
        return None
    curves = suite.curves[row["cell"], row["seed"]]
    counts = sorted(int(found[1]) for name in curves if (found := re.fullmatch(rf"{BOUND}, (\d+) tasks", name)))
    clip = row["kind_options"]["clip"]
    noises = sorted({family.noise for family in families()})
    styles = {
        _label(noise): LabelStyle(f"c{place}", PALETTE[place][0], SHAPES[place]) for place, noise in enumerate(noises)
    }
    panels = []
    for title, name, rules in (
        (_BOUNDS, BOUND, [Rule("both", 1.0, "equal"), Rule("x", clip, "trivial")]),
        (_RANKS, COMPLEXITY, []),
    ):
        for count in counts:
            errors, values = (curves[with_tasks(which, count)].values for which in (TEST_ERROR, name))
            points = [
                Point(_label(family.noise), error, value, note=f"spread {family.spread:g}")
                for family, error, value in zip(families(), errors, values, strict=True)
            ]
            words = f"{title}, {numbers.plural(count, 'task')}"
            panels.append(Panel(words, Axis("test error", "error"), Axis(name, "error"), points, rules=rules))
    return Figure(
        "kernel_bound",
        "kernel",
        "The bound and the complexity against the test error",
        "A point for each family of sinusoids: five spreads of amplitude and phase, three deviations of the labels' noise. MAML in the "
        f"limit, trained for ever, with the probability {1 - row['kind_options']['delta']:g}; n = 1 draw of tasks. A bound above the "
        "dotted level is trivial: no loss counts as more.",
        panels,
        styles=styles,
    )


def bound_words(figure: Figure) -> str:
    """Return where the bound holds and where it says something."""
    points = [point for panel in figure.panels if panel.title.startswith(_BOUNDS) for point in panel.points]
    levels = [rule.value for panel in figure.panels for rule in panel.rules if rule.along == "x"]
    holds = sum(point.y >= point.x for point in points)
    telling = [point for point in points if point.y < levels[0]]
    said = f"The bound holds at {holds} of {len(points)} points"
    if not telling:
        return f"{said}, and is trivial at all of them."
    return f"{said}, and is below the trivial value at {len(telling)}."


def _label(noise: float) -> str:
    return f"noise {noise:g}"
