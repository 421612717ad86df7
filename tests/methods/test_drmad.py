"""DrMAD equals reverse mode where that does not see the states between, and is far off where it does."""

from __future__ import annotations

import pytest
import torch
from bilevel import call, checkpoint, relative_error
from small_problems import LearnedStart, LearningRates, Ridge, Tanh

from metabench.autodiff.optimisers import inner_optimiser
from metabench.core import Batch, Tree, Window, tree
from metabench.methods import drmad


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("make", [Tanh, LearningRates])
def test_one_step_is_reverse_mode(make: type[Tanh], optimiser: str) -> None:
    problem = make(optimiser, inner_steps=1)
    at = checkpoint(problem)
    assert relative_error(call("drmad", problem, *at).meta, call("unrolled", problem, *at).meta) <= 1e-13


class Shifted(Ridge):
    """f(w, l) = |X w - y|^2 / (2 n) + |w - l|^2 / 2: its second derivatives are constants."""

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return (self.x @ params["w"] - self.y).square().mean() / 2 + (params["w"] - meta["log_penalty"]).square().sum() / 2


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "nesterov"])
def test_where_second_derivatives_are_constants_it_is_reverse_mode(optimiser: str) -> None:
    problem = Shifted(4, inner_steps=9)
    problem.optimiser = inner_optimiser(optimiser, 0.1)
    at = checkpoint(problem)
    assert relative_error(call("drmad", problem, *at).meta, call("unrolled", problem, *at).meta) <= 1e-12


def test_a_learned_start_is_pulled_back_to() -> None:
    problem = LearnedStart(inner_steps=1)
    at = checkpoint(problem, windows_before=0)
    assert relative_error(call("drmad", problem, *at).meta, call("unrolled", problem, *at).meta) <= 1e-13


def test_a_run_that_bends_is_answered_wrongly() -> None:
    """A known bad baseline: the ends of the run are right, and the way between them is not straight."""
    problem = Ridge(5, inner_steps=20, learning_rate=0.3)
    state, meta, window = checkpoint(problem, windows_before=0)
    exact = call("unrolled", problem, state, meta, window).meta
    found = call("drmad", problem, state, meta, window)
    assert relative_error(found.meta, exact) > 0.1
    assert relative_error(found.state.params, call("none", problem, state, meta, window).state.params) == 0


def test_outer_losses_on_the_way_are_differentiated_where_the_run_was() -> None:
    problem = Shifted(4, inner_steps=4)
    state, meta, window = checkpoint(problem)
    several = Window(window.inner, ({}, None, {}, None))
    found = call("drmad", problem, state, meta, several)
    exact = call("unrolled", problem, state, meta, several)
    assert relative_error(found.meta, exact.meta) <= 1e-12 and found.outer_loss == pytest.approx(exact.outer_loss)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_line_that_is_read_a_step_off_is_caught(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Tanh("momentum", inner_steps=1)
    at = checkpoint(problem)
    right, plain = call("unrolled", problem, *at).meta, drmad._between  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "metabench.methods.drmad._between", lambda first, last, k, steps: plain(first, last, k + shift, steps)
    )
    assert relative_error(call("drmad", problem, *at).meta, right) > 1e-3
    assert tree.count(right)
