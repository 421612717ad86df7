"""The study of wide networks: errors and exponents from outputs of known distance to the limit, and what it leaves out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from metabench.core.curves import Curve
from metabench.kernels.names import (
    CONDITION,
    DISTANCE,
    LIMIT_RATE,
    OWN_RATE,
    PREDICTED,
    QUERY,
    RELATIVE,
    TEST_LOSS,
    TEST_OUTPUTS,
    TRAINING_LOSS,
    TRAINING_OUTPUTS,
)
from metabench.report.blocks import Sentence
from metabench.report.figure import Figure
from metabench.report.sections.kernel_study import KERNELS
from metabench.report.sections.kernel_study.study import regimes
from metabench.report.tables.table import Table
from metabench.results.spectra import EIGENVALUES

LIMIT = (3.0, 4.0)
STEPS = tuple(range(21))


def curves_of(error: float, rate: float) -> dict[str, Curve]:
    """Return curves whose outputs are `error` away from the limit, relative to its length, and whose loss falls by `rate` per step."""
    outputs = Curve((0, 1), (LIMIT[0] + 5 * error, LIMIT[1]), along=QUERY)
    loss = Curve(STEPS, tuple(math.exp(-rate * step) for step in STEPS), along="outer step")
    return {TRAINING_OUTPUTS: outputs, TEST_OUTPUTS: outputs, TRAINING_LOSS: loss}


def rows_of(synthetic: Any, method: str, errors: dict[int, float], seeds: int = 2) -> list[dict[str, Any]]:
    found = []
    for width, error in {**errors, 0: 0.0}.items():
        for seed in range(seeds):
            row = synthetic.row(
                method,
                seed,
                problem="regularisation",
                parameters=100,
                dataset="digits",
                size=f"w{width}" if width else "infinite",
            )
            rate = 0.1 if not width else 0.08
            numbers = {DISTANCE: 2.0 + error, TEST_LOSS: 0.3 + error}
            row |= {"curves": curves_of(error * (1 + 0.1 * seed), rate), "metrics": numbers}
            own = {RELATIVE: 0.1 + error, OWN_RATE: 0.09} if width else {CONDITION: 1600.0}
            row["meta_summary"] = {LIMIT_RATE: 0.1, PREDICTED: 2.0, **own}
            found.append(row)
    return found


HALF = {width: 2 / width**0.5 for width in (64, 256, 1024, 4096)}
FLAT = dict.fromkeys(HALF, 0.3)


def test_errors_exponents_and_rates_are_those_of_the_curves(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([*rows_of(synthetic, "unrolled", HALF), *rows_of(synthetic, "t1t2", FLAT)])
    (regime,) = regimes(suite)
    fast, flat = regime.methods
    assert fast.errors(64, TEST_OUTPUTS) == pytest.approx([0.25, 0.275])
    fit = fast.slope(TEST_OUTPUTS)
    assert fit is not None and fit.slope == pytest.approx(-0.5)
    assert (fast.trusted_from(TEST_OUTPUTS, 0.1), flat.trusted_from(TEST_OUTPUTS, 0.1)) == (1024, None)
    assert fast.rates(64) == pytest.approx({0: 0.08, 1: 0.08}) and fast.rates(0) == pytest.approx({0: 0.1, 1: 0.1})
    assert fast.rate_ratio(64) == pytest.approx(0.8)


def test_the_section_says_draws_and_tabulates_it(load_rows: Any, synthetic: Any) -> None:
    suite = load_rows([*rows_of(synthetic, "unrolled", HALF), *rows_of(synthetic, "t1t2", FLAT)])
    (part,) = KERNELS.parts(suite)
    sentence, theory, losses, errors, rates, distances, table = part.blocks
    assert (
        isinstance(sentence, Sentence)
        and "from width 1,024 on for `unrolled`; at no width here for `t1t2`" in sentence.text
    )
    assert isinstance(losses, Figure) and isinstance(errors, Figure) and isinstance(distances, Figure)
    assert [panel.title for panel in losses.panels] == ["unrolled", "t1t2"]
    assert [(trace.label, trace.dashed) for trace in losses.panels[0].traces][-2:] == [
        ("width 4,096", False),
        ("infinite", True),
    ]
    assert errors.panels[1].notes["unrolled"].startswith("−0.50")
    # Of the exact method alone: beside what was measured, its own kernel's rate, and that of the limit as a line.
    assert isinstance(rates, Figure)
    (panel,) = rates.panels
    assert panel.title == "unrolled" and [rule.value for rule in panel.rules] == [pytest.approx(0.1)]
    assert {(point.label, round(point.y, 9)) for point in panel.points} == {
        ("unrolled", 0.08),
        ("its own kernel as drawn", 0.09),
    }
    (guide,) = errors.panels[0].traces
    assert guide.y[0] / guide.y[1] == pytest.approx(8)
    assert [rule.value for rule in distances.panels[0].rules] == [2.0, 2.0]
    assert isinstance(theory, Sentence)
    assert "largest eigenvalue is 1600 times its least; at width 4,096 the parameters move by up to 40 %" in theory.text
    assert isinstance(table, Table)
    record = table.records[0]
    assert record["slope_test"] == pytest.approx(-0.5) and record["rate"] == pytest.approx(0.8)
    assert record["own"] == pytest.approx(0.9) and table.records[1]["own"] is None
    assert record["limit"] == pytest.approx(0.3) and record["error_test"] == pytest.approx(1.05 * HALF[4096])
    assert KERNELS.draws(suite, suite.tasks[0], TRAINING_LOSS) and not KERNELS.draws(
        suite, suite.tasks[0], "outer loss"
    )


def test_without_the_limit_the_distance_alone_is_drawn_and_with_one_width_there_is_no_study(
    load_rows: Any, synthetic: Any
) -> None:
    rows = rows_of(synthetic, "unrolled", HALF)
    (part,) = KERNELS.parts(load_rows([row for row in rows if row["size"] != "infinite"]))
    (figure,) = part.blocks
    assert isinstance(figure, Figure)
    (panel,) = figure.panels
    assert panel.title.startswith("regularisation on digits") and panel.title.endswith(": unrolled")
    assert panel.notes["unrolled"].startswith("−0.0")
    assert {(point.x, point.y) for point in panel.points if point.label == "predicted"} == {(w, 2.0) for w in HALF}
    assert [point.y for point in panel.points if point.label == "unrolled"] == [2.0 + error for error in HALF.values()]
    assert not list(KERNELS.parts(load_rows([row for row in rows if row["size"] in ("w64", "infinite")])))


def test_spectra_are_points_in_the_plane_without_those_that_are_zero(load_rows: Any, synthetic: Any) -> None:
    row = synthetic.row(
        "t1t2", 0, problem="regularisation", parameters=100, dataset="digits", size="infinite", kind="spectrum"
    )
    row["curves"] = {EIGENVALUES: Curve((-0.1, 0.0, 1.0), (0.2, 1e-15, 0.0), along="real part")}
    (part,) = KERNELS.parts(load_rows([row]))
    (figure,) = part.blocks
    assert isinstance(figure, Figure)
    assert [(point.x, point.y) for point in figure.panels[0].points] == [(-0.1, 0.2), (1.0, 0.0)]
