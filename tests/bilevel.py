"""What tests of hypergradients share: problems built small and in float64, runs of a method, and finite differences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from metabench import data
from metabench.autodiff.gradients import outer_value
from metabench.autodiff.inner import begin, detached, run, step
from metabench.core import Hypergradient, InnerState, Problem, Tree, Window, tree
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.core.randomness import generator
from metabench.methods import method, methods
from metabench.problems import problem

OPTIMISERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop")

UNROLLED_FAMILY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unrolled", {}),
    ("unrolled_remat", {"schedule": "every"}),
    ("unrolled_remat", {"schedule": "sqrt"}),
    ("mixflow", {}),
)
"""The methods that claim dF(w_K(l), l)/dl up to rounding, with the options that change how they get there."""

OUTSIDE = ("metabench.methods.boat", "metabench.methods.hippotrainer")
"""The modules whose methods ask libraries that nothing here installs, and that are not always what they are named after."""

EVERY_METHOD = [name for name, one in methods().items() if one.module not in OUTSIDE]
"""All other methods. tests/methods/test_boat.py is of those."""

_LANGUAGE = {"blocks": 2, "width": 8, "heads": 2, "sequence": 8, "batch": 3, "evaluated": 8}

_LEARNED = {"optimiser": "lstm, hidden 3, layers 1, input log", "horizon": 6}
SMALL: dict[str, dict[str, Any]] = {
    "toy_1d": {},
    "regularisation": {"train": 30, "validation": 60},
    "label_noise": {
        "train": 40,
        "validation": 40,
        "batch": 8,
        "hidden": 10,
        "optimiser": "momentum",
        "learning_rate": 0.02,
    },
    "rotation": {"train": 40, "validation": 40, "batch": 8, "start": 7.0, "optimiser": "sgd", "learning_rate": 0.02},
    "lm_learning_rates": _LANGUAGE | {"optimiser": "sgd", "learning_rate": 0.1},
    "lm_initialisation": _LANGUAGE | {"topic": 200, "tasks": 2, "test_topics": 2},
    "lm_loss_weights": _LANGUAGE | {"outer_batch": 3, "features": 2, "weigher_hidden": 3},
    "cross_lingual": {
        "train": 12,
        "validation": 10,
        "test": 20,
        "source_train": 30,
        "batch": 4,
        "bottleneck": 3,
        "length": 10,
    },
    "cross_domain_fewshot": {"train_ways": 2, "ways": 2, "shots": 1, "queries": 1, "tested": 3, "learning_rate": 1e-3},
    "few_shot_regression": {"tasks": 2, "test_tasks": 2, "shots": 2, "queries": 2},
    "few_shot_classification": {
        "way": 2,
        "queries": 2,
        "characters": 4,
        "tasks": 2,
        "test_tasks": 6,
    },
    "few_shot": {"ways": 2, "queries": 2, "tasks": 2, "tested": 4, "norm": "group"},
    "architecture_search": {"ways": 2, "queries": 2, "tasks": 2, "tested": 4, "norm": "group", "selected_steps": 1},
    "learned_quadratics": _LEARNED | {"tasks": 2, "test_tasks": 4},
    "learned_perceptron": _LEARNED | {"batch": 8},
    "learned_convnet": _LEARNED | {"batch": 4},
    "neural_art": _LEARNED | {"test_tasks": 2},
}
"""Options that make a problem cheap and leave it what it is."""

cached_data = functools.cache(data.load)


def make_problem(
    name: str,
    *,
    dataset: str | None = None,
    size: str | None = None,
    inner_steps: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Problem:
    """Return a problem of the suite; data set and size default to the first of its card, the options to SMALL's."""
    kind = problem(name)
    return kind(
        Setting(
            size=size or next(iter(kind.card.named_sizes())),
            options=build(kind.card.options, SMALL[name] | options, f"problem '{name}'"),
            inner_steps=inner_steps,
            seed=seed,
            device=torch.device("cpu"),
            dtype=dtype,
            data=cached_data(dataset or kind.card.datasets[0]),
        )
    )


def checkpoint(of: Problem, windows_before: int = 1) -> tuple[InnerState, Tree, Window]:
    """Return (state, meta, window) after some windows of plain training: moments are not zero there, nor are the parameters."""
    state, meta = of.initial_state()
    stream = of.windows()
    for _ in range(windows_before):
        state = run(of, detached(begin(of, state, meta)), meta, next(stream)[0].inner)
    return state, meta, next(stream)[0]


def call(
    name: str, of: Problem, state: InnerState, meta: Tree, window: Window, *, seed: int = 0, **options: Any
) -> Hypergradient:
    """Return the hypergradient by a method's name and options."""
    chosen = method(name)
    built = build(chosen.options, options, f"method '{name}'")
    return chosen(of, state, meta, window, built, generator(seed, "test"))


def objective(of: Problem, state: InnerState, window: Window) -> Callable[[Tree], float]:
    """Return l -> the window's outer objective, by plain training: it uses no derivative except the inner gradient."""

    def value(meta: Tree) -> float:
        current, total = detached(begin(of, state, meta)), 0.0
        for inner, outer in zip(window.inner, window.outer, strict=True):
            current = step(of, current, meta, inner)
            if outer is not None:
                total += outer_value(of, current.params, meta, outer)
        return total

    return value


def difference(function: Callable[[Tree], float], at: Tree, direction: Tree, width: float = 1e-3) -> float:
    """Return the derivative of `function` along `direction` by central differences of fourth order, error O(width^4)."""

    def symmetric(by: float) -> float:
        return function(tree.add_scaled(at, by, direction)) - function(tree.add_scaled(at, -by, direction))

    return (8 * symmetric(width) - symmetric(2 * width)) / (12 * width)


def directions(like: Tree, count: int, seed: int = 0) -> list[Tree]:
    """Return random directions of norm 1, shaped as `like`."""
    stream = generator(seed, "directions")
    drawn = [
        tree.tree_map(lambda leaf: torch.randn(leaf.shape, generator=stream, dtype=leaf.dtype), like)
        for _ in range(count)
    ]
    return [tree.scale(1 / tree.norm(one), one) for one in drawn]


def assert_derivative(
    found: Tree,
    function: Callable[[Tree], float],
    at: Tree,
    *,
    tolerance: float = 1e-8,
    width: float = 1e-3,
    count: int = 2,
) -> None:
    """Assert that `found` is the gradient of `function`: along random directions, and along itself.

    The tolerance is relative to the norm of `found`, on top of the rounding of the differences, which must be small beside it: a
    gradient that nearly vanishes certifies nothing.
    """
    size = float(tree.norm(found))
    rounding = 16 * torch.finfo(torch.float64).eps * abs(function(at)) / width
    assert size > 1e4 * rounding, "the hypergradient nearly vanishes here: this point certifies nothing"
    for direction in [*directions(at, count), tree.scale(1 / size, found)]:
        expected = difference(function, at, direction, width)
        assert abs(float(tree.dot(found, direction)) - expected) <= tolerance * size + rounding


def relative_error(found: Tree, expected: Tree) -> float:
    """Return |found - expected| / |expected|; both trees have the same names in the same order."""
    assert list(found) == list(expected)
    return float(tree.norm(tree.subtract(found, expected)) / tree.norm(expected))


EXACT_FAMILY: tuple[tuple[str, dict[str, Any]], ...] = (
    *UNROLLED_FAMILY,
    ("unrolled_remat", {"schedule": "binomial", "checkpoints": 2}),
    ("forward", {}),
    ("forward", {"together": 1}),
)
"""All that claim dF(w_K(l), l)/dl; forward mode is dear where there are many meta-parameters."""
