"""The yardsticks of hypergradients are themselves right."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from bilevel import assert_derivative, checkpoint, make_problem, objective, relative_error
from small_problems import Ridge, Tanh

from metabench.autodiff import exact
from metabench.autodiff.exact import exact_target
from metabench.autodiff.inner import run
from metabench.core import Target
from metabench.core.method import NoOptions


@dataclass(frozen=True)
class Steps:
    steps: int


def test_the_unrolled_yardstick_is_the_derivative_of_the_whole_window() -> None:
    problem = Tanh("adam", inner_steps=5)
    state, meta, window = checkpoint(problem)
    found = exact_target(Target.UNROLLED, problem, state, meta, window, NoOptions())
    assert found is not None
    assert_derivative(found, objective(problem, state, window), meta)


@pytest.mark.parametrize(
    ("target", "options", "kept"), [(Target.ONE_STEP, NoOptions(), 1), (Target.TRUNCATED, Steps(3), 3)]
)
def test_the_truncated_yardsticks_are_the_derivative_of_the_last_steps(
    target: Target, options: object, kept: int
) -> None:
    problem = Tanh("momentum", inner_steps=5)
    state, meta, window = checkpoint(problem)
    found = exact_target(target, problem, state, meta, window, options)
    assert found is not None
    before = run(problem, state, meta, window.inner[: 5 - kept])
    assert_derivative(found, objective(problem, before, window.last(kept)), meta)


def test_truncated_at_more_steps_than_there_are_is_unrolled() -> None:
    problem = Tanh(inner_steps=3)
    at = checkpoint(problem)
    found, whole = (exact_target(t, problem, *at, Steps(9)) for t in (Target.TRUNCATED, Target.UNROLLED))
    assert found is not None
    assert whole is not None
    assert relative_error(found, whole) == 0


def test_the_implicit_yardstick_is_the_dense_solve() -> None:
    problem = Ridge(4, inner_steps=3)
    state, meta, window = checkpoint(problem)
    found = exact_target(Target.IMPLICIT, problem, state, meta, window, NoOptions())
    assert found is not None
    params = run(problem, state, meta, window.inner).params
    assert relative_error(found, problem.implicit(params, meta)) <= 1e-12


def test_long_unrolled_runs_to_the_minimum_are_implicit_differentiation() -> None:
    problem = Ridge(3, inner_steps=500, learning_rate=0.5)
    at = checkpoint(problem, windows_before=0)
    unrolled, implicit = (exact_target(t, problem, *at, NoOptions()) for t in (Target.UNROLLED, Target.IMPLICIT))
    assert unrolled is not None
    assert implicit is not None
    assert relative_error(unrolled, implicit) <= 1e-10


def test_targets_without_a_yardstick_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem("toy_1d")
    at = checkpoint(problem)
    assert exact_target(Target.NONE, problem, *at, NoOptions()) is None
    assert exact_target(Target.SMOOTHED, problem, *at, NoOptions()) is None
    assert exact_target(Target.IMPLICIT, problem, *at, NoOptions()) is not None
    monkeypatch.setattr(exact, "DENSE_LIMIT", 0)
    assert exact_target(Target.IMPLICIT, problem, *at, NoOptions()) is None
