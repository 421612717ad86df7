"""Linear iMAML: every method against the spectrum of what it estimates, to thirteen digits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from bilevel import EVERY_METHOD

from metabench.certify.cases import Case, cases, settled
from metabench.certify.check import relative
from metabench.certify.claims import _spectral
from metabench.certify.shared_roles import LinearIMAML
from metabench.certify.spectral import ESTIMATES, estimate_of, linear_cases, spectral
from metabench.core import Target, tree
from metabench.kernels.responses import Damped, NeumannSeries, Nothing, Response, Ridge, Steps
from metabench.methods import method
from metabench.results.certificate import AS_DECLARED, CERTIFIED, FAILED, UNSUPPORTED

HELD = [name for name in EVERY_METHOD if estimate_of(method(name))]


def test_all_methods_that_take_a_derivative_are_held() -> None:
    exact = {"unrolled", "unrolled_remat", "mixflow", "forward", "forward_carried", "truncated", "higher_unrolled", "torchopt_unrolled"}
    assert set(HELD) == exact | set(ESTIMATES)
    # None of the others is of the form kept I - X' T X: they draw, take no derivative, or see F's curvature.
    others = {"none", "reptile", "es", "pes", "evograd", "f2sa", "bome", "meha", "forward_gradient", "es_jacobian", "drmad"}
    others |= {"ift_newton", "ift_minres", "ift_stochastic", "ift_fisher"}
    assert set(EVERY_METHOD) - set(HELD) == others


@pytest.mark.parametrize("name", HELD)
def test_a_method_estimates_what_its_response_says(name: str) -> None:
    one = method(name)
    found = [claim.check(one) for claim in _spectral(one)]
    answered = [finding for finding in found if finding.verdict != UNSUPPORTED]
    assert {finding.verdict for finding in answered} == {CERTIFIED if one.exact else AS_DECLARED}
    assert max(finding.error for finding in answered if finding.error is not None) <= 1e-13
    # One step and the last steps see no start; what is first-order sees nothing else.
    blind = {"t1t2": 2, "darts": 4, "truncated": 7, "first_order": 2}
    assert len(found) - len(answered) == blind.get(name, 0)


def test_a_term_too_many_is_caught() -> None:
    right = method("ift_neumann")

    def longer(problem: Any, state: Any, meta: Any, window: Any, options: Any, stream: Any) -> Any:
        more = dataclasses.replace(options, steps=options.steps + 1)
        return right(problem, state, meta, window, more, stream)

    planted = dataclasses.replace(right, function=longer)
    assert {claim.check(planted).verdict for claim in _spectral(planted)} == {FAILED}


@pytest.mark.parametrize("case", linear_cases(), ids=lambda case: case.text)
def test_what_methods_estimate_are_different_numbers(case: Case) -> None:
    """No claim holds by chance: of any two responses, the hypergradients are a thousandth apart, those of a run at rest excepted."""
    c, rate = LinearIMAML.proximal, 0.2
    given: list[Response] = [
        Nothing(),
        Damped(c),
        Damped(c, 0.3),
        NeumannSeries(0, rate, c),
        NeumannSeries(1, rate, c),
        NeumannSeries(10, 0.1, c),
        Steps(4, rate, c),
    ]
    found = [spectral(case, response) for response in given]
    for i, one in enumerate(found):
        assert all(relative(one, other) > 1e-3 for other in found[:i])


def test_at_the_minimum_the_run_the_ridge_and_the_derivative_over_minima_agree() -> None:
    case = settled(LinearIMAML(inner_steps=80))
    assert case.text in {one.text for one in cases(Target.IMPLICIT)} and case.minimum is not None
    assert relative(case.end.params, case.minimum.params) <= 1e-14
    c, n = LinearIMAML.proximal, LinearIMAML.examples
    exact = spectral(case, Ridge(n * c))
    assert relative(spectral(case, Damped(c)), exact) <= 1e-15
    assert relative(spectral(case, Steps(80, 0.2, c)), exact) <= 1e-13
    assert relative(spectral(case, NeumannSeries(79, 0.2, c)), exact) <= 1e-13
    assert relative(case.implicit, exact) <= 1e-10
    at = case.expansion
    dense = tree.unflatten(at.implicit(torch.linalg.solve(at.hessian, at.outer_w)), case.meta)
    assert relative(dense, exact) <= 1e-13
