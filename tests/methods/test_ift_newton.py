"""The hypergradient of the minimum, from a run that has not arrived there: exact on quadratics, of second order elsewhere."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, make_problem, relative_error
from small_problems import LearnedStart, LearningRates, Ridge, SummedOuter, Tanh

from metabench.autodiff.exact import exact_target
from metabench.certify.cases import Case, moving
from metabench.certify.problems import Logistic
from metabench.core import Problem, Target, Tree, Unsupported, Window, tree
from metabench.core.method import NoOptions
from metabench.core.options import build
from metabench.core.randomness import generator
from metabench.methods import method


def answer(name: str, case: Case, **options: Any) -> Tree:
    chosen = method(name)
    built = build(chosen.options, options, name)
    return chosen(case.problem, case.state, case.meta, case.window, built, generator(0, "test")).meta


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_quadratic_it_is_exact_from_wherever_the_run_ends(steps: int, shared: bool) -> None:
    problem = Ridge(4, inner_steps=steps)
    state, meta, window = checkpoint(problem, windows_before=0)
    exact = problem.implicit(problem.minimum(meta), meta)
    found = call("ift_newton", problem, state, meta, window, steps=4, shared=shared)
    # With `shared` dF/dw is that of w_K.
    assert (relative_error(found.meta, exact) <= 1e-13) == (not shared)
    assert relative_error(call("ift_cg", problem, state, meta, window, steps=4).meta, exact) > 1e-2
    assert found.diagnostics["solver_steps"] == 8 and found.diagnostics["newton_step"] > 0


@functools.cache
def logistic(inner_steps: int) -> Case:
    """Return a run on one batch, on its way to the minimum."""
    at = moving(Logistic("momentum", inner_steps=inner_steps))
    batch, outer = at.window.inner[0], at.outer_batch
    return Case(at.problem, at.state, at.meta, (Window.ending_in((batch,) * inner_steps, outer),))


def error(name: str, inner_steps: int, **options: Any) -> float:
    case = logistic(inner_steps)
    assert case.at_minimum is not None
    return relative_error(answer(name, case, steps=20, **options), case.at_minimum)


def test_its_error_is_of_second_order_and_that_of_conjugate_gradients_of_first() -> None:
    ours, shared, theirs = ([error(name, k, **own) for k in (20, 40, 60, 80)] for name, own in (
        ("ift_newton", {}), ("ift_newton", {"shared": True}), ("ift_cg", {})
    ))
    assert ours[0] < 0.1 * theirs[0] and ours[0] < theirs[1], "at K = 20 nearer than conjugate gradients at K = 40"
    # As the run goes on the error of first order falls by some factor, that of second order by its square.
    assert math.log(ours[1] / ours[3]) / math.log(theirs[1] / theirs[3]) == pytest.approx(2, abs=0.3)
    assert all(one < other for one, other in zip(ours, shared, strict=True))


def test_where_the_hessian_is_indefinite_no_step_is_taken_uphill() -> None:
    problem = make_problem("label_noise", dataset="digits", size="mlp64", inner_steps=1, hidden=3, detach=False)
    at = checkpoint(problem, windows_before=0)
    found = call("ift_newton", problem, *at, steps=30)
    plain = call("ift_cg", problem, *at, steps=30)
    assert plain.diagnostics["indefinite"] == found.diagnostics["indefinite"] == 1
    assert found.diagnostics["newton_step"] == 0 and relative_error(found.meta, plain.meta) <= 1e-10


@pytest.mark.parametrize("inner_steps", [2, 20])
def test_the_exact_value_of_its_target_is_that_of_the_minimum(inner_steps: int) -> None:
    case = logistic(inner_steps)
    found = exact_target(Target.MINIMUM, case.problem, case.state, case.meta, case.window, NoOptions())
    assert found is not None and case.at_minimum is not None
    assert relative_error(found, case.at_minimum) <= 1e-8
    problem = Tanh()
    state, meta, window = checkpoint(problem)
    # A network's loss need not be convex on the way: then there is no value, and no guess.
    other = exact_target(Target.MINIMUM, problem, state, meta, window, NoOptions())
    assert other is None or all(torch.isfinite(leaf).all() for leaf in other.values())


def test_w_k_in_place_of_the_newton_step_is_caught() -> None:
    """A planted mistake: everything is taken at w_K, as conjugate gradients do."""
    case = logistic(20)
    assert case.at_minimum is not None
    here = answer("ift_cg", case, steps=20)
    assert relative_error(here, case.at_minimum) > 5 * relative_error(answer("ift_newton", case, steps=20), case.at_minimum)
    assert tree.count(here)


@pytest.mark.parametrize("kind", [LearningRates, LearnedStart, SummedOuter])
def test_what_a_minimum_does_not_see_is_refused(kind: type[Problem]) -> None:
    problem = kind()
    with pytest.raises(Unsupported, match=r"meta-parameters enter|outer losses are due"):
        call("ift_newton", problem, *checkpoint(problem))
