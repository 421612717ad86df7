"""A loss whose recorded derivative is not that of its values is found, and what stops it is named with its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bilevel import SMALL, make_problem

from metabench.autodiff.recorded import VALUE_WIDTH, check_recorded
from metabench.core import MetabenchError, Tree
from metabench.core.randomness import generator
from metabench.stages.well_posed import check_derivatives

Loss = Callable[[Tree, Tree, Any], torch.Tensor]


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return slope


class Cubed(torch.autograd.Function):
    """Right once, and wrong where its backward pass is differentiated."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return slope * 3 * x.detach() ** 2


def without_recording(p: Tree, m: Tree, b: Any) -> torch.Tensor:
    with torch.no_grad():
        length = p["w"].norm()
    return (p["w"].sin() * m["l"]).sum() * length


WRONG: dict[str, tuple[Loss, str]] = {
    "detach": (lambda p, m, b: (p["w"].detach().square() * p["w"] * m["l"]).sum(), "detach() (test_recorded.py:"),
    "no_grad": (without_recording, "torch.no_grad() (test_recorded.py:"),
    "data": (lambda p, m, b: (p["w"].data.square() * p["w"] * m["l"]).sum(), ".data (test_recorded.py:"),
    "item": (lambda p, m, b: (p["w"] * m["l"]).sum() * p["w"].norm().item(), "item() (test_recorded.py:"),
    "a number": (lambda p, m, b: (p["w"] * m["l"]).sum() * float(p["w"].norm()), "float() (test_recorded.py:"),
    "straight through": (lambda p, m, b: ((Rounded.apply(3 * p["w"]) - p["w"]) ** 2 * m["l"]).sum(), "round() (test_rec"),
    "a second derivative": (lambda p, m, b: (Cubed.apply(p["w"]) * m["l"]).sum(), "the gradient of the loss changes by"),
    "a detached meta-parameter": (lambda p, m, b: (p["w"] ** 2 * m["l"].detach() * m["l"]).sum(), "detach()"),
}

RIGHT: dict[str, Loss] = {
    "smooth": lambda p, m, b: (p["w"].sin() * m["l"]).sum(),
    "kinks": lambda p, m, b: (p["w"].relu() * m["l"] + (p["w"] - 0.3).abs()).sum(),
    "a constant that is detached": lambda p, m, b: (p["w"].sin() * m["l"]).sum() + p["w"].round().detach().sum(),
    "linear": lambda p, m, b: (p["w"] * m["l"]).sum(),
}


def point() -> tuple[Tree, Tree]:
    stream = generator(0, "point")
    drawn = torch.randn(2, 5, generator=stream, dtype=torch.float64)
    return {"w": drawn[0]}, {"l": drawn[1]}


@pytest.mark.parametrize("name", WRONG)
def test_a_loss_that_is_not_differentiated_as_it_is_computed_is_refused(name: str) -> None:
    loss, words = WRONG[name]
    with pytest.raises(MetabenchError) as refused:
        check_recorded("the loss", loss, *point(), {})
    assert words in str(refused.value)
    assert "stops_gradients = True" in str(refused.value)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_one_passes(name: str) -> None:
    check_recorded("the loss", RIGHT[name], *point(), {})


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_problems_of_the_suite_say_what_they_stop(name: str, seed: int) -> None:
    problem = make_problem(name, seed=seed)
    state, meta = problem.initial_state()
    window = next(problem.windows())[0]
    check_derivatives(problem, state, meta, window)
    assert problem.stops_gradients == (name in ("label_noise", "lm_loss_weights"))
    # At its start the language model's weighing network hardly reads the losses: there the stop is within rounding of nothing.
    if name == "label_noise":
        problem.stops_gradients = False
        with pytest.raises(MetabenchError, match="detach"):
            check_derivatives(problem, state, meta, window)
        check_derivatives(make_problem(name, seed=seed, detach=False), state, meta, window)


@pytest.mark.parametrize("times", [18, 200, 3000])
def test_kinks_across_which_two_widths_agree_by_chance_are_looked_at_from_nearer(times: int) -> None:
    nearest = 2 * VALUE_WIDTH / times

    def bent(params: Tree, meta: Tree, batch: Any) -> torch.Tensor:
        x = params["x"]
        return -x - 1.3e-4 * (torch.relu(x - nearest) - torch.relu(-x - nearest))

    check_recorded("the loss", bent, {"x": torch.tensor(0.0, dtype=torch.float64)}, {}, {})
