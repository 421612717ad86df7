"""Curves: medians and quartiles over tasks, what is wrong with one, and thinning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metabench.core.curves import Curve


def test_over_tasks_are_the_quartiles_of_numpy() -> None:
    tasks = np.random.default_rng(0).normal(size=(9, 5))
    curve = Curve.over_tasks(range(5), tasks.tolist(), unit="nat", log_y=True)
    for numbers, share in ((curve.lower, 0.25), (curve.values, 0.5), (curve.upper, 0.75)):
        np.testing.assert_allclose(numbers, np.quantile(tasks, share, axis=0), rtol=1e-12)
    assert (curve.n, curve.unit, curve.log_y, curve.fault()) == (9, "nat", True, "")
    assert Curve.over_tasks([0], [[2.0]]).values == [2.0]


@pytest.mark.parametrize(
    ("curve", "fault"),
    [
        (Curve([], []), "has no points"),
        (Curve([0, 1], [1.0]), "has 2 x and 1 values"),
        (Curve([0, 1], [1.0, 2.0], lower=[1.0], upper=[1.0, 2.0]), "has 2 x and 1 lower"),
        (Curve([0, 1], [1.0, 2.0], lower=[1.0, 1.0]), "has one quartile without the other"),
        (Curve([0, 1], [1.0, math.nan]), "is not finite: values[1] is nan"),
        (Curve.over_tasks([0, 1], [[1.0, math.nan], [2.0, 3.0]]), "is not finite: values[1] is nan"),
        (Curve([0, math.inf], [1.0, 2.0]), "is not finite: x[1] is inf"),
    ],
)
def test_what_is_wrong_is_said(curve: Curve, fault: str) -> None:
    assert curve.fault() == fault


def test_a_thinned_curve_keeps_its_ends_and_its_pairs() -> None:
    x = list(range(1000))
    curve = Curve(x, [2.0 * one for one in x], lower=[one - 1.0 for one in x], upper=[one + 1.0 for one in x]).thinned(200)
    assert len(curve.x) == 200 and (curve.x[0], curve.x[-1]) == (0, 999)
    assert all(value == 2 * one and low == one - 1 for one, value, low in zip(curve.x, curve.values, curve.lower, strict=True))
    short = Curve(x[:3], x[:3])
    assert short.thinned(200) is short
