"""Error against solver budget: how a method that is exact only in a limit approaches its target."""

from __future__ import annotations

import math

from metabench.report.blocks import Note
from metabench.report.figure import Axis, Failure, Figure, Panel, Point
from metabench.report.figures.parts import joined
from metabench.report.results.certified import OTHER_SOURCE, verdict
from metabench.report.results.entries import Suite

ROUNDING = 1e-13
_PANELS_AT_MOST = 3
_ERROR = Axis("relative error against its own target", "error")


def budget_figure(suite: Suite) -> Figure | Note:
    """Return the curves of those certificates that match the rows' source: a panel per budget option and case."""
    curves = [curve for certificate in suite.certificates.values() for curve in certificate.curves]
    # A logarithmic axis shows options of which a budget is zero plus one.
    zero = {option for _, option, curve in curves if any(budget == 0 for budget, _ in curve)}
    points: dict[tuple[str, str], list[Point]] = {}
    failures: dict[tuple[str, str], list[Failure]] = {}
    for method, hashes in suite.method_hashes.items():
        certificate = suite.certificates.get(method)
        if not hashes or certificate is None or verdict(certificate, hashes) == OTHER_SOURCE:
            continue
        for case, option, curve in certificate.curves:
            for budget, error in curve:
                place = budget + (option in zero)
                if math.isfinite(error):
                    points.setdefault((option, case), []).append(
                        Point(method, place, error, note=f"{option}={budget:g}")
                    )
                else:
                    failures.setdefault((option, case), []).append(Failure(method, "diverged", 1, place))
    options = list(dict.fromkeys(option for option, _ in points))  # in the order of the suite's methods
    panels = [
        Panel(
            f"{option} · {case}",
            Axis(f"{option} + 1" if option in zero else option, _kind(points[option, case])),
            _ERROR,
            points[option, case],
            joined(points[option, case]),
            failures=failures.get((option, case), []),
            floor=ROUNDING,
            floor_words="below 10⁻¹³: rounding",
        )
        for option, case in sorted(points, key=lambda key: options.index(key[0]))
    ]
    if not panels:
        return Note("Error against solver budget: no certificate of these methods has such a curve.")
    figure = Figure(
        "error_budget",
        "budget",
        "Error against solver budget",
        "Relative error against the method's own exact target, float64, one computation per point (of a method that draws, the mean of "
        "eight); lines join the budgets of one method. Strips: zero up to rounding; no longer finite.",
        panels,
    )
    figure.keep(_PANELS_AT_MOST)
    return figure.tell_apart(suite.all_styles)


def _kind(points: list[Point]) -> str:
    return "count" if all(float(point.x).is_integer() for point in points) else "error"
