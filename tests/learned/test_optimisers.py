"""Learned optimisers on a problem: exact methods agree with differences, groups and stacked tasks are what each would be by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bilevel import call, checkpoint, directions, objective

from metabench.autodiff.inner import step
from metabench.core import InnerState, Tree, tree
from metabench.core.errors import MetabenchError
from metabench.core.options import build
from metabench.core.problem import Setting
from metabench.learned.declared import LEARNED_OPTIMISERS, read_optimiser
from metabench.learned.grouped import Driver
from metabench.learned.tasks import Tasks
from metabench.problems.learned_quadratics import LearnedQuadratics, Options
from metabench.stages.inner_update import check_update

EXACT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unrolled", {}),
    ("unrolled_remat", {"schedule": "sqrt"}),
    ("mixflow", {}),
    ("mixflow", {"trajectory": "recompute"}),
)
NETWORKS = ("lstm, hidden 4, gain 0.5", "rnnprop, hidden 4", "mlp, hidden 4, output 0.1", "small_mlp, output 0.1")
HAND_MADE = ("sgd", "momentum", "nesterov", "rmsprop", "adam")


def quadratics(optimiser: str, dtype: torch.dtype = torch.float64, **options: Any) -> LearnedQuadratics:
    chosen = build(Options, {"tasks": 3, "test_tasks": 4, "optimiser": optimiser} | options, "test")
    return LearnedQuadratics(Setting("d5", chosen, 3, 0, torch.device("cpu"), dtype, None))


def slope(function: Any, at: Tree, direction: Tree, width: float = 3e-4) -> float:
    """Return a derivative by central differences of sixth order, so narrow that no kink of a ReLU lies between them."""
    steps = [(1, 45), (2, -9), (3, 1)]
    return sum(
        weight
        * (function(tree.add_scaled(at, k * width, direction)) - function(tree.add_scaled(at, -k * width, direction)))
        for k, weight in steps
    ) / (60 * width)


@pytest.mark.parametrize("optimiser", NETWORKS + HAND_MADE)
def test_the_exact_methods_agree_with_differences_of_sixth_order(optimiser: str) -> None:
    problem = quadratics(optimiser)
    state, meta, window = checkpoint(problem)
    # Away from the kink of a unit whose inputs are all zero, and whose bias is.
    meta = tree.add_scaled(meta, 0.3, directions(meta, 1, seed=1)[0])
    (direction,) = directions(meta, 1)
    expected = slope(objective(problem, state, window), meta, direction)
    assert abs(expected) > 1e-4
    forward = [] if optimiser.startswith(("lstm", "rnn", "mlp")) else [("forward", {})]
    for method, options in (*EXACT, *forward):
        found = tree.dot(call(method, problem, state, meta, window, **options).meta, direction)
        assert float(found) == pytest.approx(expected, rel=1e-8), (method, options)


class Halves(Tasks):
    """Two groups of parameters; nothing else of a family is asked for here."""

    def group(self, name: str) -> str:
        return name.partition(".")[0]

    def begin(self, part: Any, stream: torch.Generator) -> Any:
        raise NotImplementedError

    def losses(self, params: Tree, batch: Any) -> torch.Tensor:
        raise NotImplementedError


def drawn(*shapes: tuple[int, ...]) -> Tree:
    stream = torch.Generator().manual_seed(0)
    names = ("conv.0", "dense.0", "conv.1", "dense.1")
    return {
        name: torch.randn(shape, generator=stream, dtype=torch.float64)
        for name, shape in zip(names, shapes, strict=False)
    }


def test_each_group_is_updated_by_its_own_optimiser_and_they_share_the_step_count() -> None:
    chosen = {"conv": read_optimiser("adam, rate 0.1"), "dense": read_optimiser("mlp, hidden 3")}
    both = Driver(chosen, Halves())
    params = drawn((2, 3), (4,), (1,), ())
    meta = both.draw(torch.Generator().manual_seed(1))
    check_update(both, InnerState(params, both.init(params)), meta)
    state, moved = both.init(params), params
    for _ in range(2):
        moved, state = both.update(params, moved, state, meta)
    assert list(moved) == list(params) and float(state["step"]["count"]) == 2
    for group, one in chosen.items():
        alone, own = one.make(), {name: leaf for name, leaf in params.items() if name.startswith(group)}
        expected, slots = own, alone.init(own)
        mine = {name.removeprefix(f"{group}."): leaf for name, leaf in meta.items() if name.startswith(group)}
        for _ in range(2):
            expected, slots = alone.update(own, expected, slots, mine)
        torch.testing.assert_close({name: moved[name] for name in own}, expected)
        torch.testing.assert_close(state[f"{group}.second"], slots["second"])


def test_a_group_without_an_optimiser_is_named() -> None:
    driver = Driver({"conv": read_optimiser("sgd")}, Halves())
    with pytest.raises(MetabenchError, match=r"group of parameter 'dense\.0', 'dense'"):
        driver.init(drawn((2,), (2,)))


def test_stacked_tasks_are_updated_as_each_alone() -> None:
    problem = quadratics("small_mlp, output 0.1")
    state, meta, window = checkpoint(problem)
    after = step(problem, state, meta, window.inner[0])
    alone = problem.optimiser.chosen[""].make()
    own = {name: leaf[1] for name, leaf in state.params.items()}
    slots = {
        slot: leaves if slot == "step" else {name: leaf[1] for name, leaf in leaves.items()}
        for slot, leaves in state.optimiser.items()
    }
    variables = tree.leaves_for_grad(state.params)
    (gradient,) = torch.autograd.grad(problem.inner_loss(variables, meta, window.inner[0]), list(variables.values()))
    moved, kept = alone.update({"w": gradient[1]}, own, slots, meta)
    torch.testing.assert_close(after.params["w"][1], moved["w"])
    torch.testing.assert_close(after.optimiser["rows"]["w"][1], kept["rows"]["w"])


@pytest.mark.parametrize("optimiser", [*LEARNED_OPTIMISERS, "lstm, input log"])
@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_scalars_empty_tensors_and_gradients_of_nothing_have_finite_derivatives_of_both_orders(
    optimiser: str, value: float
) -> None:
    chosen = read_optimiser(optimiser)
    update = chosen.make()
    shapes = {"scalar": (), "one": (1,), "none": (0, 3), "matrix": (2, 3)}
    params = {name: torch.full(shape, 0.3) for name, shape in shapes.items()}
    meta = {name: leaf.float().requires_grad_() for name, leaf in chosen.draw(torch.Generator().manual_seed(0)).items()}
    gradient = {name: torch.full_like(leaf, value).requires_grad_() for name, leaf in params.items()}
    state, moved = update.init(params), params
    for _ in range(2):
        moved, state = update.update(gradient, moved, state, meta)
    assert {name: tuple(leaf.shape) for name, leaf in moved.items()} == shapes
    variables = [gradient["scalar"], gradient["matrix"], *meta.values()]
    total = torch.stack([leaf.square().sum() for leaf in moved.values()]).sum()
    slopes = torch.autograd.grad(total, variables, create_graph=True, allow_unused=True)
    assert slopes[0] is not None and slopes[1] is not None
    bends = torch.autograd.grad(slopes[1].square().sum() + slopes[0], variables, allow_unused=True)
    assert all(leaf.isfinite().all() for leaf in (total, *slopes, *bends) if leaf is not None)


@pytest.mark.parametrize("optimiser", [*NETWORKS, "lstm, input log"])
def test_a_task_whose_gradient_is_no_number_is_lost_alone(optimiser: str) -> None:
    problem = quadratics(optimiser)
    state, meta, window = checkpoint(problem)
    matrix = window.inner[0]["matrix"].clone()
    matrix[1] = float("nan")
    after = step(problem, state, meta, {**window.inner[0], "matrix": matrix})
    assert after.params["w"].isfinite().all(1).tolist() == [True, False, True]
