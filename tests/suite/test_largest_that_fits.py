"""The largest number of inner steps that fits is what asking for every T would give, with far fewer questions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from metabench.core.errors import MetabenchError
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.plan import Plan
from metabench.suite.predict.largest_that_fits import PREDICTED_AT_MOST, Answer, answers
from tests.suite.test_predictions import Figures, silent

WEIGHTS = {"mlp64": 100, "mlp256": 400, "mlp1024": 1600}
SIZES = list(WEIGHTS)


class Law:
    """A predictor that knows a law for each method, and counts what it was asked."""

    def __init__(self, **laws: Callable[[int, int], int]) -> None:
        self.laws = laws
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, cell: Cell, device: str | None) -> Figures:
        self.asked.append((cell.method, cell.size, cell.inner_steps))
        weight = WEIGHTS[cell.size]
        peak = self.laws[cell.method](weight, cell.inner_steps)
        return Figures(peak_bytes=peak, static_bytes=weight, dynamic_bytes=peak - weight)


def ask(planned: Callable[..., Plan], budget: int, law: Law, **changes: Any) -> Answer:
    plan = planned(problem="label_noise", methods=list(law.laws), inner_steps=[1], **changes)
    found = list(answers(plan, budget, silent, None, SIZES, law))
    assert [name for _, name in found] == list(found[0][0].methods)
    (answer,) = {id(answer): answer for answer, _ in found}.values()
    return answer


def texts(answer: Answer, method: str) -> list[str]:
    return [answer.methods[method][size].text for size in answer.sizes]


def brute_force(law: Callable[[int, int], int], size: str, budget: int) -> int | None:
    fitting = [2**power for power in range(21) if law(WEIGHTS[size], 2**power) <= budget]
    return max(fitting, default=None)


@pytest.mark.parametrize("budget", [50, 399, 400, 1000, 5000, 123_456])
def test_where_memory_is_affine_in_steps_the_answer_is_that_of_trying_every_one(
    planned: Callable[..., Plan], budget: int
) -> None:
    laws = {
        "unrolled": lambda weight, steps: 2 * weight + weight * steps,
        "mixflow": lambda weight, steps: 3 * weight + steps,
    }
    answer = ask(planned, budget, Law(**laws))
    for method, law in laws.items():
        for size in SIZES:
            assert answer.methods[method][size].steps == brute_force(law, size, budget)


def test_few_predictions_decide_and_it_is_said_that_the_rest_is_extrapolated(planned: Callable[..., Plan]) -> None:
    law = Law(unrolled=lambda weight, steps: weight * (1 + steps))
    found = ask(planned, 10**6, law)
    assert texts(found, "unrolled") == ["8192*", "2048*", "512*"]
    for size in SIZES[1:]:
        assert sorted(steps for _, asked, steps in law.asked if asked == size) == [1, 2, 4]
    assert max(steps for _, _, steps in law.asked) == 16


def test_an_odd_first_step_costs_one_more_prediction(planned: Callable[..., Plan]) -> None:
    law = Law(unrolled=lambda weight, steps: weight * (1 + steps) + 7 * (steps == 1))
    assert texts(ask(planned, 10**6, law), "unrolled") == ["8192*", "2048*", "512*"]
    assert sorted(steps for _, asked, steps in law.asked if asked == "mlp256") == [1, 2, 4, 8]


def test_what_is_no_straight_line_is_sought_among_predictions(planned: Callable[..., Plan]) -> None:
    law = Law(unrolled_remat=lambda weight, steps: weight * (2 * math.isqrt(steps) + 1))
    assert texts(ask(planned, 2000, law), "unrolled_remat") == [f"{PREDICTED_AT_MOST}+", "8", "none"]


def test_a_line_that_bends_only_later_is_not_taken_for_one(planned: Callable[..., Plan]) -> None:
    law = Law(truncated=lambda weight, steps: weight * (1 + min(steps, 10)))
    assert texts(ask(planned, 2000, law), "truncated") == [f"{PREDICTED_AT_MOST}+", "4", "none"]


def test_a_method_whose_memory_does_not_depend_on_steps_takes_any(planned: Callable[..., Plan]) -> None:
    law = Law(t1t2=lambda weight, steps: 3 * weight)
    assert texts(ask(planned, 1500, law), "t1t2") == ["any", "any", "none"]


def test_sizes_above_one_that_does_not_fit_are_not_asked_for(planned: Callable[..., Plan]) -> None:
    law = Law(none=lambda weight, steps: weight, unrolled=lambda weight, steps: weight * (1 + steps))
    answer = ask(planned, 700, law, sizes=["mlp1024"])
    assert texts(answer, "unrolled") == ["4", "none", "none"]
    assert ("unrolled", "mlp1024", 1) not in law.asked


def test_sizes_stand_from_small_to_large_whatever_their_order_on_the_card(planned: Callable[..., Plan]) -> None:
    reverse = dict(zip(SIZES, reversed(WEIGHTS.values()), strict=True))

    class Reversed(Law):
        def __call__(self, cell: Cell, device: str | None) -> Figures:
            return Figures(peak_bytes=reverse[cell.size], static_bytes=reverse[cell.size])

    assert list(ask(planned, 10**6, Reversed(none=lambda weight, steps: weight)).sizes) == SIZES[::-1]


def test_a_method_that_cannot_be_predicted_says_why(planned: Callable[..., Plan]) -> None:
    class Silent(Law):
        def __call__(self, cell: Cell, device: str | None) -> Figures:
            return Figures(0, 0, 0, 0, 0, message="no trace")

    answer = ask(planned, 1000, Silent(none=lambda weight, steps: weight))
    assert {found.message for found in answer.methods["none"].values()} == {"no trace"}
    assert texts(answer, "none") == ["?"] * 3


def test_methods_of_several_experiments_on_one_problem_stand_in_one_answer(planned: Callable[..., Plan]) -> None:
    law = Law(none=lambda weight, steps: weight, evograd=lambda weight, steps: weight)
    plan = planned(
        problem="label_noise", methods=["none", {"evograd": {"copies": [2, 4]}}], inner_steps=[1, 2], sizes=SIZES
    )
    answer = list(answers(plan, 10**6, silent, None, SIZES, law))[-1][0]
    assert list(answer.methods) == ["none", "evograd", "evograd (copies=4)"]


def test_an_unknown_size_is_named_with_the_nearest(planned: Callable[..., Plan]) -> None:
    with pytest.raises(MetabenchError, match="unknown size 'mlp65': did you mean 'mlp64'"):
        list(answers(planned(problem="label_noise"), 10, silent, None, ["mlp65"], Law()))
