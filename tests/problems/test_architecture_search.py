"""Mixtures of operations: derivatives, both formulations, what the logits select, and the net selected by itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bilevel import EXACT_FAMILY, assert_derivative, call, make_problem, objective, relative_error

from metabench.core.errors import MetabenchError
from metabench.core.problem import MetaRole
from metabench.models.choice_blocks import Choice, Mixture
from metabench.problems.architecture_search import ArchitectureSearch


def made(size: str = "w6", **options: Any) -> ArchitectureSearch:
    found = make_problem("architecture_search", size=size, **options)
    assert isinstance(found, ArchitectureSearch)
    return found


@pytest.mark.parametrize("options", [{}, {"formulation": "tnas"}, {"part": 2, "temperature": 0.5}])
def test_the_hypergradient_is_that_of_finite_differences(options: dict[str, Any]) -> None:
    on = made(learning_rate=0.05, **options)
    (state, meta), window = on.initial_state(), next(on.windows())[0]
    found = call("unrolled", on, state, meta, window)
    assert_derivative(found.meta, objective(on, state, window), meta, tolerance=1e-5, width=1e-5, count=1)


@pytest.mark.parametrize(("name", "options"), EXACT_FAMILY)
def test_exact_methods_agree(name: str, options: dict[str, Any]) -> None:
    on = made(part=2)
    (state, meta), window = on.initial_state(), next(on.windows())[0]
    exact = call("unrolled", on, state, meta, window).meta
    assert relative_error(call(name, on, state, meta, window, **options).meta, exact) <= 1e-9


def test_roles_are_those_of_the_formulation() -> None:
    darts, tnas = made(), made(formulation="tnas")
    assert darts.roles == {MetaRole.INNER_LOSS, MetaRole.OUTER_LOSS}
    assert tnas.roles == {MetaRole.START}
    assert set(darts.initial()) == {f"layer{i}.logits" for i in range(3)}
    assert set(darts.initial_state()[0].params).isdisjoint(darts.initial())
    assert set(tnas.initial()) == set(darts.initial()) | set(darts.initial_state()[0].params)


def test_logits_adapt_at_a_rate_of_their_own() -> None:
    on = made(formulation="tnas", learning_rate=0.1, logit_rate=3.0)
    (state, meta), _ = on.initial_state(), None
    ones = {name: torch.ones_like(leaf) for name, leaf in meta.items()}
    after, _ = on.optimiser.update(ones, meta, on.optimiser.init(meta), meta)
    for name, leaf in after.items():
        assert torch.allclose(meta[name] - leaf, torch.full_like(leaf, 3.0 if name.endswith("logits") else 0.1))
    assert state.params.keys() == meta.keys()


def test_a_mixture_is_the_weighted_sum_of_its_operations() -> None:
    of = Mixture(("conv3", "pool3", "identity"), 4, "group")
    stream = torch.Generator().manual_seed(0)
    params = {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in of.shapes().items()}
    maps = torch.randn(2, 4, 6, 6, generator=stream, dtype=torch.float64)
    weights = params["logits"].softmax(0)
    expected = torch.zeros_like(maps)
    for weight, operation in zip(weights, of.operations, strict=True):
        choice = Choice(operation, 4, "group")
        expected += weight * choice.maps({name: params[f"{operation}.{name}"] for name in choice.shapes()}, maps)
    assert torch.allclose(of.maps(params, maps), expected, rtol=0, atol=1e-14)


def test_channels_that_are_not_mixed_pass_by() -> None:
    of = Mixture(("identity", "pool3"), 6, part=3)
    maps = torch.randn(2, 6, 4, 4)
    found = of.maps({"logits": torch.tensor([50.0, -50.0])}, maps)
    # All by identity: every channel is there once, interleaved.
    assert torch.equal(found, maps[:, [0, 2, 4, 1, 3, 5]])


def test_the_largest_logit_of_each_layer_selects() -> None:
    on = made()
    meta = {name: torch.zeros(5) for name in on.initial()}
    meta["layer0.logits"][2], meta["layer1.logits"][4], meta["layer2.logits"][0] = 1, 1, 1
    assert on.selected(meta) == "sep5-identity-conv3"
    said = on.summary(meta)
    assert said["layers without weights"] == 1
    assert said["entropy of the mixtures (nats)"] < math.log(5)
    assert said["parameters of the net selected"] == on.space.parameters("sep5-identity-conv3", (1, 16, 16), 2)


def test_the_net_selected_is_trained_from_nothing_as_few_shot_trains_it() -> None:
    on = made(selected_steps=2)
    alone = on.alone("conv3-pool3-sep3")
    assert alone.roles == {MetaRole.START}
    assert alone.net == on.space.net("conv3-pool3-sep3", (1, 16, 16), 2, "group")
    found = on._trained("conv3-pool3-sep3")
    assert found.shape == (4,) and torch.isfinite(found).all()
    # Not trained, it adapts from weights as drawn.
    drawn = on.alone("conv3-pool3-sep3")
    assert torch.equal(made(selected_steps=0)._trained("conv3-pool3-sep3"), drawn.test_accuracies(drawn.initial()))


def test_channels_that_do_not_divide_are_refused() -> None:
    with pytest.raises(MetabenchError, match="6 channels do not divide into 4 parts"):
        made(part=4)
