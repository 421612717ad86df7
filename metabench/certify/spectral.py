"""What methods estimate of linear iMAML, by the spectrum of X X': an independent form of their formulas, to the last digits.

An inner run of f = |Xw - y|^2 / 2n + c/2 |w - l|^2 moves w along rows of X, and towards l. So what any method takes dw_K/dl to be is
kept I - X' T X with T a function of X X', as in the meta kernel: `metabench.kernels.responses` has the functions, and
`metabench.problems.few_shot_regression` is this problem for wide networks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

from metabench.certify.cases import Case
from metabench.certify.shared_roles import LinearIMAML
from metabench.core import InnerState, Method, Target, Tree, Window, tree
from metabench.kernels.responses import Damped, NeumannSeries, Nothing, Response, Steps

Estimate: TypeAlias = "Callable[[Case, Any], Response | None]"
"""From a case and options to the response that a method takes the run to have; None where it has to refuse."""


@functools.cache
def linear_cases() -> tuple[Case, ...]:
    """Return linear iMAML in a window that begins at l and in one that does not, on its way and at rest, all steps on one batch."""
    return tuple(
        _on_one_batch(LinearIMAML(begins=b, inner_steps=k)) for b, k in itertools.product((True, False), (5, 80))
    )


def _on_one_batch(problem: LinearIMAML) -> Case:
    (params, meta), drawn = problem.beginning(), next(problem.windows())[0]
    outer = drawn.outer[-1]
    assert outer is not None
    state = InnerState(params, problem.optimiser.init(params))
    return Case(problem, state, meta, (Window.ending_in(drawn.inner[:1] * problem.setting.inner_steps, outer),))


def spectral(case: Case, response: Response) -> Tree:
    """Return dF/dl for dw_K/dl = kept I - X' T X, F at w_K, where T and the share kept are those of a response."""
    inputs, slope = case.window.inner[-1]["inputs"], case.expansion.outer_w
    moved = inputs.T @ (response(inputs @ inputs.T) @ (inputs @ slope))
    return tree.unflatten(response.kept * slope - moved, case.meta)


def estimate_of(method: Method) -> tuple[Estimate, tuple[dict[str, Any], ...]] | None:
    """Return what a method takes the response to be, and the options under which it is checked against that; None where it is not known."""
    if method.exact and method.target in (Target.UNROLLED, Target.CARRIED):
        return lambda case, options: _through(case, case.inner_steps), ({},)
    if method.exact and method.target is Target.TRUNCATED:
        return lambda case, options: _through(case, options.steps), ({}, *method.variants)
    return ESTIMATES.get(method.name)


def _through(case: Case, steps: int) -> Response | None:
    """Return the response of the last steps, those before held fixed."""
    if not case.problem.restarts:
        return _series(min(steps, case.inner_steps) - 1, _rate(case))
    return None if steps < case.inner_steps else Steps(case.inner_steps, _rate(case), LinearIMAML.proximal)


def _rate(case: Case) -> float:
    return float(case.problem.learning_rate())


def _series(terms: int, scale: float) -> Response:
    return NeumannSeries(terms, scale, LinearIMAML.proximal)


def _last_step(case: Case, options: Any) -> Response | None:
    """Return the response of one step, which sees l in the loss alone and no start."""
    return None if case.problem.restarts else _through(case, 1)


ESTIMATES: dict[str, tuple[Estimate, tuple[dict[str, Any], ...]]] = {
    "t1t2": (_last_step, ({},)),
    "darts": (_last_step, ({}, {"epsilon": 0.1})),
    # The derivative of one update stands for the inverse Hessian.
    "sama": (lambda case, options: _series(0, _rate(case)), ({}, {"epsilon": 0.1})),
    "first_order": (lambda case, options: Nothing() if case.problem.restarts else None, ({},)),
    "ift_cg": (
        lambda case, options: Damped(LinearIMAML.proximal, options.damping),
        ({"steps": 5, "tolerance": 0.0}, {"steps": 5, "tolerance": 0.0, "damping": 0.3}),
    ),
    "torchopt_ift_cg": (lambda case, options: Damped(LinearIMAML.proximal), ({"steps": 5, "tolerance": 0.0},)),
    "ift_neumann": (
        lambda case, options: _series(options.steps, options.scale),
        ({}, {"steps": 0}, {"steps": 3, "scale": 0.2}),
    ),
    # In the first window v is one step from zero.
    "single_loop": (lambda case, options: _series(0, options.rate), ({}, {"rate": 0.3, "momentum": 0.5})),
    # A smaller rho has the same form with fewer digits: the columns are divided by it.
    "ift_nystrom": (
        lambda case, options: Damped(LinearIMAML.proximal, options.rho),
        ({"rank": 5, "rho": 0.5}, {"rank": 5, "rho": 0.5, "storage": "blocked", "block": 2}),
    ),
    "ift_fixed_point": (
        lambda case, options: _series(options.steps, _rate(case)),
        ({"steps": 7, "tolerance": 0.0}, {"steps": 80, "tolerance": 0.0}),
    ),
}
"""By method: what it takes the response to be, and options under which it is checked against that."""
