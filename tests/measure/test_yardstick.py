"""Plain training tells a right hypergradient from a wrong one, without a derivative that the two could share."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel import checkpoint, make_problem

from metabench.autodiff.exact import exact_truncated
from metabench.autodiff.unrolled.sweep import through_graph
from metabench.core import Batch, InnerState, Problem, Tree, Window, tree
from metabench.core.randomness import generator, perturbation
from metabench.measure import yardstick
from metabench.measure.yardstick import AGREEMENT, DIRECTIONS, TOLERANCE, Disagreement, Unsettled, disagreement
from metabench.problems.toy_1d import Toy1D

# Smooth problems, and networks with kinks and jumps: ReLU, max pooling, an optimiser that divides by the gradient's size.
PROBLEMS: list[tuple[str, dict[str, Any]]] = [
    ("toy_1d", {"inner_steps": 20}),
    ("regularisation", {"inner_steps": 20}),
    ("regularisation", {"inner_steps": 5, "optimiser": "adam", "learning_rate": 0.01}),
    ("label_noise", {"inner_steps": 1}),
    ("label_noise", {"inner_steps": 4, "detach": False}),
    ("label_noise", {"inner_steps": 3, "detach": False, "size": "conv4", "optimiser": "momentum"}),
    ("lm_learning_rates", {"inner_steps": 2}),
    ("lm_initialisation", {"inner_steps": 2}),
    ("lm_loss_weights", {"inner_steps": 2, "detach": False}),
]


def compare(
    problem: Problem, place: tuple[InnerState, Tree, Window], hypergradient: Tree, seed: int = 0, **options: Any
) -> Disagreement:
    state, meta, window = place
    return disagreement(problem, state, meta, window, hypergradient, generator(seed, "yardstick"), **options)


def exact(problem: Problem, place: tuple[InnerState, Tree, Window]) -> Tree:
    return through_graph(problem, *place).meta


def noise() -> Problem:
    return make_problem("label_noise", inner_steps=3, detach=False)


def test_it_shares_no_code_with_reverse_mode() -> None:
    source = ast.parse(Path(yardstick.__file__).read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    assert all(module is None or not module.startswith("metabench") or ".core" in module for module in modules)


@pytest.mark.parametrize(("name", "options"), PROBLEMS, ids=lambda value: value if isinstance(value, str) else None)
def test_reverse_mode_agrees_with_plain_training(name: str, options: dict[str, Any]) -> None:
    problem = make_problem(name, **options)
    place = checkpoint(problem)
    found = compare(problem, place, exact(problem, place))
    assert found.error <= AGREEMENT and not found.wrong
    assert found.precision <= AGREEMENT


@pytest.mark.parametrize("steps", [1, 2])
def test_a_truncated_hypergradient_is_compared_through_its_own_steps(steps: int) -> None:
    problem = noise()
    place = checkpoint(problem)
    own = exact_truncated(problem, *place, steps)
    assert compare(problem, place, own, steps=steps).error <= AGREEMENT
    assert compare(problem, place, own).wrong


def test_a_wrong_factor_is_measured_and_told_by_both_slopes() -> None:
    problem = noise()
    place = checkpoint(problem)
    right = exact(problem, place)
    found = compare(problem, place, tree.scale(1.01, right))
    assert found.wrong and found.error == pytest.approx(0.01 / 1.01, rel=1e-4)
    assert found.direction == "along the hypergradient"
    assert found.reverse / found.plain == pytest.approx(1.01, rel=1e-6)
    assert found.plain == pytest.approx(float(tree.norm(right)), rel=1e-6)


def test_an_error_of_a_thousandth_is_caught_whatever_its_direction() -> None:
    problem = noise()
    place = checkpoint(problem)
    right = exact(problem, place)
    for seed in range(5):
        drawn = perturbation(right, "gaussian", generator(seed, "an error"))
        wrong = tree.add_scaled(right, 1e-3 * float(tree.norm(right) / tree.norm(drawn)), drawn)
        found = compare(problem, place, wrong, seed)
        assert found.wrong and 1e-4 < found.error < 3e-3


@pytest.mark.parametrize("name", ["hidden.weight", "hidden.bias", "out.weight", "out.bias"])
def test_a_tensor_without_its_hypergradient_is_caught(name: str) -> None:
    problem = noise()
    place = checkpoint(problem)
    right = exact(problem, place)
    assert compare(problem, place, right | {name: torch.zeros_like(right[name])}).wrong


def test_a_hypergradient_of_zero_is_caught() -> None:
    problem = noise()
    place = checkpoint(problem)
    found = compare(problem, place, tree.zeros_like(place[1]))
    assert found.wrong and found.reverse == 0 != found.plain
    assert found.direction == "along a random direction"


class Directions(Toy1D):
    """As many meta-parameters as there are directions, each with a weight of its own."""

    def initial(self) -> Tree:
        return {"l": torch.linspace(0.2, 0.8, 1 + DIRECTIONS, dtype=torch.float64)}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        weights = torch.arange(1, 2 + DIRECTIONS, dtype=torch.float64)
        return (params["x"] - 1) ** 2 + (weights * meta["l"].exp()).mean() * params["x"] ** 2 / 4


def toy(kind: type[Toy1D], inner_steps: int = 3) -> Problem:
    return kind(make_problem("toy_1d", inner_steps=inner_steps).setting)


def test_over_a_basis_the_estimate_is_the_error_itself() -> None:
    problem = toy(Directions)
    place = checkpoint(problem)
    right = exact(problem, place)
    wrong = {"l": right["l"] + float(tree.norm(right)) * torch.tensor([0.3, -0.2, 0.1, 0.05], dtype=torch.float64)}
    size = max(float(tree.norm(right)), float(tree.norm(wrong)))
    expected = float(tree.norm(tree.subtract(wrong, right))) / size
    assert compare(problem, place, wrong).error == pytest.approx(expected, rel=1e-6)


class Kinked(Toy1D):
    """A kink at the very place where the slope is asked for: 0 by convention, 1/2 between the one-sided slopes."""

    def initial(self) -> Tree:
        return {"l": torch.zeros((), dtype=torch.float64)}

    def inner_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return (params["x"] - 1) ** 2 + (meta["l"].relu() + 0.3 * meta["l"].exp()) * params["x"] ** 2


class HalfKinked(Toy1D):
    """The hypergradient is along 'l', which is smooth; across it, along 'm', there is a kink."""

    def initial(self) -> Tree:
        return super().initial() | {"m": torch.zeros((), dtype=torch.float64)}

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().outer_loss(params, meta, batch) + meta["m"].relu()


class Faint(Toy1D):
    """An outer loss of size 1 that the meta-parameter moves in the twelfth digit."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return 1 + 1e-12 * super().outer_loss(params, meta, batch)


class Jumping(Toy1D):
    """An outer loss with a step of 10^-3 a little beside the place: wide differences are wrong by far more than the hypergradient."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        place = self.initial()["l"] + 3e-8
        return super().outer_loss(params, meta, batch) + 1e-3 * (meta["l"] > place)


class Exploding(Toy1D):
    """An outer loss that is infinite."""

    def outer_loss(self, params: Tree, meta: Tree, batch: Batch) -> torch.Tensor:
        return super().outer_loss(params, meta, batch) + math.inf


def test_where_there_is_no_derivative_nothing_is_held_against_reverse_mode() -> None:
    problem = toy(Kinked)
    place = checkpoint(problem)
    with pytest.raises(Unsettled, match="precise enough"):
        compare(problem, place, exact(problem, place))


def test_along_the_hypergradient_alone_nothing_is_confirmed_and_a_wrong_one_is_seen() -> None:
    problem = toy(HalfKinked)
    place = checkpoint(problem)
    right = exact(problem, place)
    assert right["m"] == 0
    with pytest.raises(Unsettled, match="precise enough"):
        compare(problem, place, right)
    assert compare(problem, place, tree.scale(1.01, right)).wrong


@pytest.mark.parametrize("factor", [1.0, 1.01, -1.0])
def test_a_hypergradient_below_the_rounding_of_the_objective_is_not_judged(factor: float) -> None:
    problem = toy(Faint)
    place = checkpoint(problem)
    with pytest.raises(Unsettled, match="precise enough"):
        compare(problem, place, tree.scale(factor, exact(problem, place)))


def test_narrow_differences_step_over_a_jump_near_by() -> None:
    problem = toy(Jumping)
    place = checkpoint(problem)
    right = exact(problem, place)
    assert compare(problem, place, right).error <= AGREEMENT
    assert compare(problem, place, tree.scale(1 + 10 * TOLERANCE, right)).wrong


def test_what_is_not_finite_is_not_compared() -> None:
    problem = toy(Exploding)
    place = checkpoint(problem)
    with pytest.raises(Unsettled, match="not finite"):
        compare(problem, place, tree.zeros_like(place[1]))


def test_what_takes_too_long_is_not_compared() -> None:
    problem = noise()
    place = checkpoint(problem)
    with pytest.raises(Unsettled, match=r"plain training take .* s or more, and 0 s are allowed"):
        compare(problem, place, exact(problem, place), seconds=0.0)


def test_a_right_hypergradient_costs_two_runs_a_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = noise()
    place = checkpoint(problem)
    right, taken = exact(problem, place), []
    whole = yardstick._step
    monkeypatch.setattr(yardstick, "_step", lambda *given: taken.append(given) or whole(*given))
    compare(problem, place, right)
    assert len(taken) == 3 * (1 + 2 * (1 + DIRECTIONS))


def test_a_stopped_gradient_is_seen() -> None:
    """The recorded derivative of a loss with a stop-gradient is not that of its values."""
    problem = make_problem("label_noise", inner_steps=3, detach=True)
    place = checkpoint(problem)
    assert compare(problem, place, exact(problem, place)).error > 1e-3
