"""What `metabench kernel rank` prints: architectures by condition number, and how well each score ranks them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from metabench.cli.output import print_json, print_table
from metabench.library.ranking import CONDITION, INITIAL, Correlation, Ranked
from metabench.report.figure import Axis, Figure, Panel, Point
from metabench.report.palette import PALETTE, SHAPES, LabelStyle
from metabench.results.statistics import Estimate


def print_ranking(found: Sequence[Ranked], correlations: Sequence[Correlation], as_json: bool) -> None:
    """Print the architectures and the correlations as tables, or both as JSON, where null is infinite or not defined."""
    if as_json:
        print_json(
            {
                "architectures": [_plain(place, one) for place, one in enumerate(found, 1)],
                "correlations": [dataclasses.asdict(one) for one in correlations],
            }
        )
        return
    initial, trained = INITIAL in found[0].scores, bool(found[0].losses)
    columns = ["rank", "network", "activation", "depth", "width", "parameters", CONDITION]
    columns += ([INITIAL] if initial else []) + (["test loss", "training loss"] if trained else [])
    rows = []
    for place, one in enumerate(found, 1):
        row = [
            str(place),
            one.of.kind,
            one.of.activation,
            str(one.of.depth),
            "infinite" if one.of.width is None else str(one.of.width),
        ]
        row += ["infinite" if math.isinf(one.parameters) else f"{one.parameters:,.0f}", _number(one.score(CONDITION))]
        row += [_number(one.score(INITIAL))] if initial else []
        row += [
            _number(_mean([getattr(each, loss) for each in one.losses])) for loss in ("test", "training") if trained
        ]
        rows.append(row)
    print_table("architectures by condition number of the meta kernel", columns, rows, right=columns[3:])
    for one in found:
        for reason in one.reasons:
            print(f"{one.of.name}: {reason}")
    if correlations:
        lines = [(one.score, one.loss, _estimate(one.spearman), _estimate(one.kendall)) for one in correlations]
        seeds = len(found[0].losses)
        print_table(
            f"rank correlation with losses after meta-training, mean over {seeds} seeds [95 % interval]",
            ("score", "loss", "Spearman", "Kendall"),
            lines,
        )
        print("1: the score finds the order of the losses; 0: it knows nothing. More parameters are ranked first.")


def ranking_figure(found: Sequence[Ranked], correlations: Sequence[Correlation]) -> Figure:
    """Return the losses after meta-training against the condition number, of the architectures where it is finite; a panel per loss."""
    activations = list(dict.fromkeys(one.of.activation for one in found))
    styles = {
        name: LabelStyle(f"c{place}", PALETTE[place][0], SHAPES[place]) for place, name in enumerate(activations)
    }
    known = [one for one in found if math.isfinite(one.score(CONDITION))]
    panels = []
    for loss in ("training", "test"):
        points = []
        for one in known:
            losses = [value for each in one.losses if math.isfinite(value := getattr(each, loss))]
            if losses:
                ends = {"y_low": min(losses), "y_high": max(losses), "n": len(losses), "note": one.of.name}
                points.append(Point(one.of.activation, one.score(CONDITION), _mean(losses), **ends))
        of = next((one.spearman for one in correlations if (one.score, one.loss) == (CONDITION, loss)), None)
        axes = (Axis("condition number of the meta kernel", "plain"), Axis(f"{loss} loss", "plain"))
        panels.append(Panel(f"{loss} loss: Spearman {_estimate(of)}", *axes, points))
    left_out = len(found) - len(known)
    caption = f"{len(known)} architectures by activation; means over draws of the tasks, least to greatest."
    caption += f" {left_out} with an infinite condition number are left out." if left_out else ""
    return Figure("rank", "kernel", "Does the condition number rank architectures?", caption, panels, styles=styles)


def _number(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.4g}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _estimate(one: Estimate | None) -> str:
    if one is None:
        return "not defined: all scores agree"
    return (
        f"{one.value:.2f}"
        if one.low is None or one.high is None
        else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(place: int, one: Ranked) -> dict[str, Any]:
    return {
        "rank": place,
        "network": one.of.kind,
        "activation": one.of.activation,
        "depth": one.of.depth,
        "width": one.of.width,
        "parameters": _finite(one.parameters),
        "scores": {name: [_finite(value) for value in values] for name, values in one.scores.items()},
        "condition": _finite(one.score(CONDITION)),
        "reasons": list(one.reasons),
        "test_losses": [_finite(each.test) for each in one.losses],
        "training_losses": [_finite(each.training) for each in one.losses],
    }
