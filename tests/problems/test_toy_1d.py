"""The illustration of EvoGrad: its figures' numbers, by the kind of experiment that draws hypergradients against the meta-parameter."""

from __future__ import annotations

import math
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.problems.toy_1d import PAPER_STARTS
from metabench.suite.plan.plan import load_suite, plan
from metabench.suite.run.run_cell import run_cell

# Means and deviations over trials of another simulation of the same setting, to the digits that it was written down with.
SIMULATED = {
    2: {0.1: (-0.18, 0.95), 0.5: (-0.04, 0.56), 1.0: (0.00, 0.39), 2.0: (0.016, 0.25)},
    10: {0.1: (-0.33, 0.41), 0.5: (-0.09, 0.18), 1.0: (0.00, 0.10), 2.0: (0.027, 0.07)},
    100: {0.1: (-0.32, 0.28), 0.5: (-0.07, 0.12), 1.0: (0.01, 0.05), 2.0: (0.031, 0.02)},
}


def row(method: Any, kind: Any, **experiment: Any) -> dict[str, Any]:
    given = {"problem": "toy_1d", "kind": kind, "inner_steps": [1], "methods": [method], **experiment}
    suite = {"name": "x", "seeds": [0], "aa": False, "rounds": 0, "experiments": {"a": given}}
    (found,) = run_cell(plan(load_suite(suite)).cells[0], lambda *told: None)
    return found


@pytest.mark.parametrize("ends", [(0.1, 2.0), (0.5, 1.0)])
@pytest.mark.parametrize("copies", SIMULATED)
def test_the_estimates_of_evograd_have_the_mean_and_the_scatter_of_its_paper(
    copies: int, ends: tuple[float, float]
) -> None:
    trials = 100
    options = {"copies": copies, "sigma": 1.0, "tau": 0.5, "noise": "gaussian", "together": copies > 2}
    found = row({"evograd": options}, {"slice": {"least": ends[0], "most": ends[1], "points": 2, "trials": trials}})
    assert found["status"] == "ok" and found["message"] == ""
    assert found["curves"]["hypergradient"].lower and not found["curves"]["hypergradient"].fault()
    mean, deviation = (found["curves"][f"hypergradient, {name}"] for name in ("mean", "standard deviation"))
    assert mean.along == "l" and mean.n == trials and tuple(mean.x) == ends
    for place, value in enumerate(ends):
        expected, scatter = SIMULATED[copies][value]
        assert abs(mean.values[place] - expected) < 4 * scatter / math.sqrt(trials) + 0.006
        # Of 100 trials with two copies it is that of the few that lie far out: between half and twice is as much as can be said of more.
        if copies > 2:
            assert 0.5 < deviation.values[place] / scatter < 2


def test_an_exact_method_at_the_inner_minimum_shows_the_closed_form() -> None:
    found = row({"unrolled": {}}, {"slice": {"points": 5, "trials": 1}}, inner_steps=[200])
    curve = found["curves"]["hypergradient"]
    assert list(curve.values) == pytest.approx([(at - 1) / (at + 1) ** 3 for at in curve.x], abs=1e-6)
    assert found["curves"]["closed form"].values == pytest.approx(curve.values, abs=1e-6)
    assert "hypergradient, standard deviation" not in found["curves"]


def test_no_two_seeds_of_a_slice_share_a_trial() -> None:
    suite: dict[str, Any] = {"problem": "toy_1d", "kind": {"slice": {"points": 2, "trials": 3}}, "methods": ["t1t2"]}
    cell = plan(
        load_suite({"name": "x", "seeds": [0, 1], "aa": False, "rounds": 0, "experiments": {"a": suite}})
    ).cells[0]
    first, second = (one["curves"]["hypergradient"] for one in run_cell(cell, lambda *told: None))
    assert not {first.values[0], first.lower[0], first.upper[0]} & {second.values[0], second.lower[0], second.upper[0]}


def test_a_trajectory_begins_where_the_paper_begins_it() -> None:
    found = row(
        "t1t2", "quality", outer_steps=3, options={"starts": "paper", "learning_rate": 0.1, "outer_learning_rate": 0.1}
    )
    x, penalty = PAPER_STARTS[0]
    (x_first, after, *_), (l_first, l_after, *_) = (found["curves"][name].values for name in ("x", "l"))
    assert (x_first, l_first) == pytest.approx((x, penalty), rel=1e-6) and found["curves"]["x"].x == (0, 1, 2, 3)
    stepped = x - 0.1 * (2 * (x - 1) + 2 * penalty * x)
    assert after == pytest.approx(stepped, rel=1e-6)
    assert l_after == pytest.approx(penalty - 0.1 * 2 * (stepped - 0.5) * -0.1 * 2 * x, rel=1e-5)


def test_slices_that_cannot_be_are_refused() -> None:
    with pytest.raises(MetabenchError, match="`least` is 2 and `most` 1: expected a greater one"):
        row("t1t2", {"slice": {"least": 2.0, "most": 1.0}})
    found = row("unrolled", {"slice": {"points": 2, "trials": 1}}, problem="regularisation")
    assert found["status"] == "error" and "against one meta-parameter, and the problem has" in found["message"]
    assert "method 'none' has no hypergradients to show" in row("none", "slice")["message"]
