"""The order of model step and meta step, for every problem and every method: before its inner steps or after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bilevel import make_problem
from small_problems import LearnedStart, LearningRates, Tanh, Tasks

from metabench.autodiff.inner import begun
from metabench.autodiff.inner import run as inner_run
from metabench.core import InnerState, MetabenchError, Problem, Target, Tree, Unsupported, tree
from metabench.core.options import build
from metabench.core.problem import MetaStep, OuterOptimiser, Setting, meta_step_option
from metabench.core.randomness import generator
from metabench.methods import method, methods
from metabench.training.loop import train
from metabench.training.run import Run

STEPS = 4


def before(problem: Problem) -> Problem:
    problem.meta_step = MetaStep.BEFORE
    return problem


def trained(problem: Problem, name: str) -> Run:
    chosen = method(name)
    run = Run.fresh(problem, generator(0, "training"))
    for _ in train(problem, chosen, chosen.options(), run, STEPS):
        pass
    return run


def same(ours: Tree, theirs: Tree) -> bool:
    return all(torch.equal(leaf, theirs[name]) for name, leaf in ours.items())


@pytest.mark.parametrize("kind", [Tanh, LearningRates, LearnedStart])
def test_before_the_model_steps_with_what_was_just_learned(kind: Any) -> None:
    problem, chosen = kind(), method("unrolled")
    windows = [window for (window,), _ in zip(problem.windows(), range(STEPS), strict=False)]
    meta, state = problem.initial(), None
    for window in windows:
        entered, given = problem.entered(window, state)
        answer = chosen(entered, given, meta, window, chosen.options(), generator(0, "unused"))
        meta = tree.add_scaled(meta, -problem.outer_optimiser.learning_rate, answer.meta)
        state = inner_run(entered, begun(entered, given, meta), meta, window.inner)
    run = trained(before(kind()), "unrolled")
    assert state is not None
    assert all(torch.allclose(run.meta[name], leaf, rtol=1e-12) for name, leaf in meta.items())
    assert all(torch.allclose(run.tasks[0].params[name], leaf, rtol=1e-12) for name, leaf in state.params.items())
    after = trained(kind(), "unrolled")
    assert not same(run.tasks[0].params, after.tasks[0].params)


@pytest.mark.parametrize("name", list(methods()))
def test_where_the_meta_parameters_stay_the_order_makes_no_difference(name: str) -> None:
    def still(problem: Problem) -> Problem:
        problem.outer_optimiser = OuterOptimiser("SGD", 0.0)
        return problem

    try:
        after, ahead = trained(still(Tanh()), name), trained(still(before(Tanh())), name)
    except Unsupported as refusal:
        pytest.skip(str(refusal))
    assert all(
        torch.allclose(ahead.tasks[0].params[key], leaf, rtol=1e-12) for key, leaf in after.tasks[0].params.items()
    )
    assert list(ahead.tasks[0].memory) == list(after.tasks[0].memory)
    if method(name).target is not Target.NONE:
        assert not same(trained(before(Tanh()), name).tasks[0].params, trained(Tanh(), name).tasks[0].params)


def test_every_task_of_a_step_is_stepped_again() -> None:
    after, ahead = trained(Tasks(), "unrolled"), trained(before(Tasks()), "unrolled")
    assert set(after.tasks) == set(ahead.tasks) and len(after.tasks) > 1
    assert not any(same(ahead.tasks[task].params, state.params) for task, state in after.tasks.items())


def test_a_method_without_a_meta_update_steps_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metabench.training.loop.inner_run", lambda *given: pytest.fail("stepped again"))
    assert isinstance(trained(before(Tanh()), "none").tasks[0], InnerState)


@dataclass(frozen=True)
class Options:
    meta_step: str = meta_step_option()


def test_a_problem_with_the_option_takes_its_order_from_there() -> None:
    assert make_problem("label_noise", dataset="digits", size="mlp64").meta_step is MetaStep.AFTER
    chosen = make_problem("label_noise", dataset="digits", size="mlp64", meta_step="before")
    assert chosen.meta_step is MetaStep.BEFORE
    assert chosen.setting.options.meta_step == "before"
    place = ("small", build(Options, {"meta_step": "before"}, "mine"), 1, 0, torch.device("cpu"), torch.float64, None)
    own = Tanh.__new__(Tanh)
    Problem.__init__(own, Setting(*place))
    assert own.meta_step is MetaStep.BEFORE
    with pytest.raises(MetabenchError, match=r"'befor'.*did you mean 'before'"):
        build(Options, {"meta_step": "befor"}, "problem 'mine'")
