"""Random units of the tasks that an optimiser is trained on; those that judge it are as they are."""

from __future__ import annotations

import math

import pytest
import torch
from learned_problems import SMALL, learned

from metabench.learned.scaled import FACTOR
from metabench.learned.tasks import Part


@pytest.mark.parametrize("name", SMALL)
def test_a_task_in_random_units_is_the_same_function_of_parameters_in_others(name: str) -> None:
    plain, scaled = learned(name), learned(name, scaling=2.0)
    before, episode = (one.tasks.begin(Part.TRAIN, torch.Generator().manual_seed(1)) for one in (plain, scaled))
    batch = next(episode.batches)
    for place, leaf in before.params.items():
        factor = batch[f"{FACTOR}{place}"]
        assert math.exp(-2) <= factor.min() < 0.5 and 2 < factor.max() <= math.exp(2)
        assert factor.unique().numel() == factor.numel()
        torch.testing.assert_close(episode.params[place] * factor, leaf)
    torch.testing.assert_close(scaled.tasks.losses(episode.params, batch), plain.tasks.losses(before.params, batch))
    again = next(episode.batches)
    assert all(torch.equal(again[key], batch[key]) for key in batch if key.startswith(FACTOR))


def test_gradients_are_in_the_random_units() -> None:
    plain, scaled = learned("learned_quadratics"), learned("learned_quadratics", scaling=1.0)
    episode = scaled.tasks.begin(Part.TRAIN, torch.Generator().manual_seed(1))
    batch, params = next(episode.batches), {"w": episode.params["w"].requires_grad_()}
    factor = batch[f"{FACTOR}w"]
    (found,) = torch.autograd.grad(scaled.inner_loss(params, {}, batch), params["w"])
    natural = {"w": (params["w"] * factor).detach().requires_grad_()}
    (expected,) = torch.autograd.grad(plain.inner_loss(natural, {}, batch), natural["w"])
    torch.testing.assert_close(found, factor * expected)


def test_the_tests_of_an_optimiser_do_not_depend_on_the_units_it_was_trained_in() -> None:
    plain, scaled = (learned("learned_perceptron", scaling=scaling, judge_every=2) for scaling in (0.0, 3.0))
    meta = plain.initial()
    assert scaled.validate(meta) == plain.validate(meta)
    ours, theirs = (
        {k: v for k, v in one.evaluate({}, meta).items() if isinstance(v, float)} for one in (scaled, plain)
    )
    assert ours == theirs
