"""What every problem keeps: its seed decides, its batches have one shape, its metrics are those of its card, on test data alone."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from bilevel import OPTIMISERS, SMALL, cached_data, checkpoint, make_problem, relative_error

from metabench.core import Problem, Tree, Window, tree
from metabench.core.citations import bibtex
from metabench.core.curves import Curve
from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.data import datasets
from metabench.learned.problem import LearnedOptimiserProblem
from metabench.problems import problem, problems

CASES: dict[str, dict[str, Any]] = {
    "toy_1d": {},
    "regularisation": {},
    "label_noise": {"dataset": "digits", "size": "conv8"},
    "rotation": {"dataset": "digits", "size": "lenet_half"},
    "lm_learning_rates": {},
    "lm_initialisation": {},
    "lm_loss_weights": {},
    "cross_lingual": {"size": "chars-32"},
    "cross_domain_fewshot": {"size": "conv4w4"},
    "few_shot_regression": {"size": "w64"},
    "few_shot_classification": {"size": "w64"},
    "architecture_search": {"size": "w6"},
    "few_shot": {"size": "subnet", "architecture": "conv3-sep3-pool3"},
}

every_problem = pytest.mark.parametrize("name", list(CASES))


def made(name: str, **options: Any) -> Problem:
    return make_problem(name, **CASES[name] | options)


def metrics_of(of: Problem, params: Tree, meta: Tree) -> dict[str, Any]:
    """Return what `evaluate` gives, without curves."""
    return {name: value for name, value in of.evaluate(params, meta).items() if not isinstance(value, Curve)}


def numbers(windows: list[Window]) -> list[torch.Tensor]:
    batches = [batch for window in windows for batch in (*window.inner, *window.outer) if batch is not None]
    return [leaf for batch in batches for leaf in batch.values()]


def test_every_problem_is_tested_here_or_learns_an_optimiser() -> None:
    rest = set(problems()) - set(CASES)
    assert all(issubclass(problem(name), LearnedOptimiserProblem) for name in rest)
    assert set(CASES) < set(problems())


@every_problem
def test_a_card_names_what_exists(name: str) -> None:
    card = problem(name).card
    assert set(card.datasets) <= set(datasets())
    assert bibtex(card.citation)
    assert card.inner_steps >= 1
    assert card.outer_steps >= 1
    assert all(metric.direction in ("max", "min") for metric in card.metrics)
    on = made(name)
    assert on.roles
    assert on.outer_optimiser.learning_rate > 0


@every_problem
def test_the_same_seed_gives_the_same_problem_and_another_gives_another(name: str) -> None:
    first, again, other = made(name, seed=3), made(name, seed=3), made(name, seed=4)
    begins, begins_again = (one.initial_state()[0].params for one in (first, again))
    for ours, theirs in ((begins, begins_again), (first.initial(), again.initial())):
        assert relative_error(ours, theirs) == 0 if float(tree.norm(theirs)) else not tree.flatten(ours).any()
    drawn = [list(itertools.islice(one.windows(), 3)) for one in (first, again, other)]
    ours, theirs, others = ([w for windows in run for w in windows] for run in drawn)
    assert all(torch.equal(a, b) for a, b in zip(numbers(ours), numbers(theirs), strict=True))
    starts = [tree.flatten(one.initial_state()[0].params) for one in (first, other)]
    batches = any(not torch.equal(a, b) for a, b in zip(numbers(ours), numbers(others), strict=True))
    assert batches or not torch.equal(*starts)


@every_problem
def test_nothing_depends_on_the_global_generator(name: str) -> None:
    torch.manual_seed(0)
    first = made(name)
    state, meta, window = checkpoint(first, windows_before=0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    state2, meta2, window2 = checkpoint(made(name), windows_before=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(tree.flatten(state.params), tree.flatten(state2.params))
    assert torch.equal(tree.flatten(meta), tree.flatten(meta2))
    assert all(torch.equal(a, b) for a, b in zip(numbers([window]), numbers([window2]), strict=True))


@every_problem
def test_drawing_windows_twice_starts_anew(name: str) -> None:
    on = made(name)
    first, second = (list(itertools.islice(on.windows(), 3)) for _ in range(2))
    pairs = zip(numbers([w[0] for w in first]), numbers([w[0] for w in second]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@every_problem
@pytest.mark.parametrize("steps", [1, 3])
def test_windows_have_k_steps_and_all_batches_one_shape(name: str, steps: int) -> None:
    on = made(name, inner_steps=steps)
    windows = [one[0] for one in itertools.islice(on.windows(), 12)]
    assert all(len(window.inner) == steps and window.outer[-1] is not None for window in windows)
    for side in ("inner", "outer"):
        batches = [batch for window in windows for batch in getattr(window, side) if batch is not None]
        shapes = {tuple((key, tuple(leaf.shape), leaf.dtype) for key, leaf in batch.items()) for batch in batches}
        assert len(shapes) == 1
        if side == "inner" and on.batch:
            assert len(next(iter(batches[0].values()))) == on.batch


@every_problem
def test_it_is_the_same_problem_in_float32_and_in_float64(name: str) -> None:
    wide, narrow = made(name), made(name, dtype=torch.float32)
    (state, meta, window), (state32, meta32, window32) = (checkpoint(on, windows_before=0) for on in (wide, narrow))
    for ours, theirs in ((state.params, state32.params), (meta, meta32)):
        assert list(ours) == list(theirs)
        assert {leaf.dtype for leaf in theirs.values()} == {torch.float32}
        assert all(torch.equal(leaf.float(), theirs[key]) for key, leaf in ours.items())
    for a, b in zip(numbers([window]), numbers([window32]), strict=True):
        torch.testing.assert_close(a.to(b.dtype), b, rtol=1e-6, atol=1e-6)
    inner, inner32 = (
        on.inner_loss(s.params, m, w.inner[0])
        for on, s, m, w in ((wide, state, meta, window), (narrow, state32, meta32, window32))
    )
    assert (inner.dtype, inner32.dtype) == (torch.float64, torch.float32)
    assert float(inner32) == pytest.approx(float(inner), rel=1e-5)
    found, found32 = metrics_of(wide, state.params, meta), metrics_of(narrow, state32.params, meta32)
    assert found32 == pytest.approx(found, rel=1e-4)


@every_problem
def test_losses_are_scalars_and_evaluation_gives_the_metrics_of_the_card(name: str) -> None:
    on = made(name)
    state, meta, window = checkpoint(on)
    assert on.inner_loss(state.params, meta, window.inner[0]).shape == ()
    assert on.outer_loss(state.params, meta, window.outer[-1] or {}).shape == ()
    metrics = metrics_of(on, state.params, meta)
    assert list(metrics) == [metric.name for metric in on.card.metrics]
    assert all(isinstance(value, float) for value in (*metrics.values(), *on.summary(meta).values()))
    assert metrics == metrics_of(on, state.params, meta)


WITH_AN_OPTIMISER = [
    name for name in CASES if "optimiser" in {field.name for field in dataclasses.fields(problem(name).card.options)}
]


@pytest.mark.parametrize("name", WITH_AN_OPTIMISER)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_inner_optimiser_can_be_asked_for(name: str, optimiser: str) -> None:
    on = made(name, optimiser=optimiser, learning_rate=0.001)
    state, _, _ = checkpoint(on)
    assert tree.all_finite(state.params)


@pytest.mark.parametrize("name", ["regularisation", "label_noise"])
def test_evaluation_reads_the_test_split_and_neither_loss_does(name: str) -> None:
    kind = problem(name)
    true: Any = cached_data("digits")
    blank = dataclasses.replace(true, test_targets=np.zeros_like(true.test_targets))
    options = build(kind.card.options, SMALL[name], name)
    place = (options, 2, 0, torch.device("cpu"), torch.float64)
    size = CASES[name].get("size", "linear")
    honest, deceived = (kind(Setting(size, *place, data)) for data in (true, blank))
    state, meta, window = checkpoint(honest)
    for a, b in zip(numbers([window]), numbers([checkpoint(deceived)[2]]), strict=True):
        assert torch.equal(a, b)
    assert honest.evaluate(state.params, meta) != deceived.evaluate(state.params, meta)
    predicted_zero = deceived.evaluate(state.params, meta)["test accuracy (%)"]
    # Accuracy against labels that are all zero is the share of examples that are taken for zeros.
    assert 0 < predicted_zero < 100
    assert honest.evaluate(state.params, meta)["test accuracy (%)"] > predicted_zero or name == "label_noise"


def test_accuracy_and_cross_entropy_are_those_of_the_test_split() -> None:
    on = make_problem("regularisation", start=-6.0, train=200, validation=100)
    state, meta, _ = checkpoint(on, windows_before=30)
    data: Any = cached_data("digits")
    scores = torch.as_tensor(data.test_inputs).double().flatten(1) @ state.params["weight"] + state.params["bias"]
    targets = torch.as_tensor(data.test_targets)
    found = on.evaluate(state.params, meta)
    assert found["test accuracy (%)"] == pytest.approx(
        100 * float((scores.argmax(1) == targets).double().mean()), rel=1e-12
    )
    expected = float(torch.nn.functional.cross_entropy(scores, targets))
    assert found["test cross-entropy (nat)"] == pytest.approx(expected, rel=1e-12)
    assert found["test accuracy (%)"] > 70  # ten classes: this is logistic regression that has learned


def test_more_examples_than_there_are_is_the_users_mistake() -> None:
    with pytest.raises(MetabenchError, match="1500"):
        make_problem("regularisation", train=1000, validation=500)


def test_the_toy_is_solved_at_one() -> None:
    on = make_problem("toy_1d")
    params = {"x": torch.tensor(0.0)}
    assert on.evaluate(params, {"l": torch.tensor(1.0)}) == {"outer loss at the inner minimum": 0.0}
    assert on.evaluate(params, {"l": torch.tensor(0.0)}) == {"outer loss at the inner minimum": 0.25}
