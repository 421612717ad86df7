"""What an optimiser does on no task: its steps at gradients that are given to it."""

from __future__ import annotations

import math

import pytest
import torch

from metabench.core.randomness import generator
from metabench.learned.declared import read_optimiser
from metabench.learned.names import AT_FIRST, PERSISTENT
from metabench.learned.response import CONSTANT, responses


def test_gradient_descent_steps_in_proportion_and_does_not_change() -> None:
    chosen = read_optimiser("sgd, rate 0.5")
    found = responses({"": chosen}, chosen.draw(generator(0, "meta")))
    first, later = found[AT_FIRST], found[PERSISTENT]
    assert [value / x for value, x in zip(first.values, first.x, strict=True)] == pytest.approx([0.5] * len(first.x))
    assert list(later.values) == pytest.approx([0.5 * CONSTANT] * len(later.x))


def test_momentum_gathers_speed_up_to_its_limit() -> None:
    chosen = read_optimiser("momentum, rate 0.1, momentum 0.5")
    later = responses({"": chosen}, chosen.draw(generator(0, "meta")))[PERSISTENT].values
    assert later[0] == pytest.approx(0.1 * CONSTANT) and later[-1] == pytest.approx(0.2 * CONSTANT)


def test_adams_first_step_is_its_rate_whatever_the_gradient() -> None:
    chosen = read_optimiser("adam, rate 0.01")
    first = responses({"": chosen}, chosen.draw(generator(0, "meta")))[AT_FIRST].values
    assert list(first) == pytest.approx([0.01] * len(first), rel=1e-3)


@pytest.mark.parametrize("text", ["lstm", "rnnprop", "mlp", "small_mlp"])
def test_every_group_has_its_own_and_all_are_numbers(text: str) -> None:
    conv, dense = read_optimiser(f"{text}"), read_optimiser("sgd, rate 0.25")
    drawn = {"conv": conv.draw(generator(0, "conv")), "dense": dense.draw(generator(0, "dense"))}
    meta = {f"{group}.{name}": leaf for group, leaves in drawn.items() for name, leaf in leaves.items()}
    found = responses({"conv": conv, "dense": dense}, meta)
    assert list(found) == [f"{group}: {name}" for group in ("conv", "dense") for name in (AT_FIRST, PERSISTENT)]
    assert found[f"dense: {AT_FIRST}"].values[-1] == pytest.approx(2.5)
    assert all(math.isfinite(value) for curve in found.values() for value in curve.values)
    assert not any(leaf.requires_grad for leaf in meta.values()) and torch.is_grad_enabled()
