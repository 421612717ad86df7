"""Wide networks: their outputs, the limits of convolutional ones, and points in the span of others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.kernels.activations import activation
from metabench.kernels.convolutional import ConvNet
from metabench.kernels.empirical import Empirical
from metabench.models.wide import LinearModel, WideConvNet, WideMLP, coordinates, factor


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, f"{shape}"), dtype=torch.float64)


def test_each_output_is_a_network_of_its_own_on_shared_hidden_layers() -> None:
    made = WideMLP(3, 8, 2, activation("relu"), 1.4, 0.1, 4)
    params, inputs = made.initial(generator(0, "params"), torch.float64), normal(5, 3)
    single = WideMLP(3, 8, 2, activation("relu"), 1.4, 0.1)
    assert made(params, inputs).shape == (5, 4) and single(params, inputs).shape == (5,)
    one = {name: leaf[2:3] if name.startswith("2.") else leaf for name, leaf in params.items()}
    torch.testing.assert_close(single(one, inputs), made(params, inputs)[:, 2], rtol=1e-13, atol=1e-13)


def test_the_tangent_kernel_of_several_outputs_is_that_of_one_for_each_and_nothing_between() -> None:
    made = WideMLP(3, 4096, 1, activation("relu"), 1.4, 0.1, 2)
    params, inputs = made.initial(generator(0, "params"), torch.float64), normal(4, 3)
    jacobian = torch.func.jacrev(made)(params, inputs)
    rows = torch.cat([leaf.flatten(2) for leaf in jacobian.values()], 2)
    kernel = torch.einsum("iap,jbp->abij", rows, rows)
    assert (kernel[0, 0] - kernel[1, 1]).norm() < 0.1 * kernel[0, 0].norm()
    assert kernel[0, 1].norm() < 0.1 * kernel[0, 0].norm()


def of_width(width: int, limit: ConvNet, image: tuple[int, int, int], outputs: int | None = None) -> WideConvNet:
    between, gap = activation(limit.activation), limit.readout == "gap"
    return WideConvNet(image, width, limit.depth, between, limit.W_std, limit.b_std, limit.pooling, gap, outputs)


@pytest.mark.parametrize("b_std", [0.0, 0.3])
@pytest.mark.parametrize(("readout", "pools"), [("flatten", ()), ("pool", (1,)), ("gap", (1,))])
def test_wider_convolutions_approach_the_kernels_of_infinite_width(
    readout: Any, pools: tuple[int, ...], b_std: float
) -> None:
    limit, images, draws = ConvNet(2, "relu", 1.4, b_std, readout, pools), normal(3, 2, 4, 4), 24
    exact = limit.kernels(images)
    for name in ("ntk", "nngp"):
        wanted, logs = getattr(exact, name), []
        for width in (16, 256):
            network = of_width(width, limit, (2, 4, 4))
            squared = 0.0
            for seed in range(draws):
                of = Empirical(network, network.initial(generator(seed, "params"), torch.float64), network.head)
                squared += float((getattr(of, name)(images.flatten(1)) - wanted).square().sum()) / draws
            logs.append(math.log(squared) / 2)
        assert -0.6 < (logs[1] - logs[0]) / math.log(16) < -0.4


@pytest.mark.parametrize("b_std", [0.0, 0.3])
@pytest.mark.parametrize(("readout", "units"), [("flatten", 8 * 6 * 4), ("pool", 8 * 3 * 2), ("gap", 8)])
def test_convolutions_have_their_shapes_and_two_derivatives(readout: Any, units: int, b_std: float) -> None:
    limit = ConvNet(2, "erf", 1.4, b_std, readout, (2,) if readout == "pool" else ())
    network, inputs = of_width(8, limit, (3, 6, 4), 5), normal(7, 3 * 6 * 4)
    params = network.initial(generator(0, "params"), torch.float64)
    shapes = {name: tuple(leaf.shape) for name, leaf in params.items()}
    biases = {"0.bias": (8,), "1.bias": (8,), "2.bias": (5,)} if b_std else {}
    assert shapes == {"0.weight": (8, 3, 3, 3), "1.weight": (8, 8, 3, 3), "2.weight": (5, units)} | biases
    assert network.head == (("2.weight", "2.bias") if b_std else ("2.weight",))
    rounded = network.initial(generator(0, "params"), torch.float32)
    assert all(torch.equal(leaf.float(), rounded[name]) for name, leaf in params.items())
    assert network(params, inputs).shape == (7, 5) and of_width(8, limit, (3, 6, 4))(params, inputs).shape == (7,)
    leaves = [leaf.requires_grad_() for leaf in params.values()]

    def loss(*given: torch.Tensor) -> torch.Tensor:
        return network(dict(zip(params, given, strict=True)), inputs[:2]).square().mean()

    assert torch.autograd.gradgradcheck(loss, leaves, fast_mode=True)


def test_pooling_that_does_not_divide_is_refused() -> None:
    with pytest.raises(MetabenchError, match="after 2 layers does not divide 8 x 6 pixels"):
        of_width(8, ConvNet(2, readout="pool"), (1, 8, 6))


def test_a_linear_model_has_zero_weights_for_each_output() -> None:
    made = LinearModel({"weight": 3}, 2)
    params = made.initial(generator(0, "params"), torch.float64)
    assert params["weight"].shape == (3, 2) and not params["weight"].any()
    assert LinearModel({"weight": 3}).initial(generator(0, "params"), torch.float64)["weight"].shape == (3,)
    inputs, weight = normal(5, 3), normal(3, 2)
    torch.testing.assert_close(made({"weight": weight}, inputs), inputs @ weight)


@pytest.mark.parametrize("rank", [12, 3])
def test_further_points_have_the_outputs_that_weights_in_the_span_give_them(rank: int) -> None:
    features = normal(12, rank)
    known, further = features[:7], features[7:]
    found = factor(known @ known.mT)
    inside = coordinates(found, further @ known.mT)
    assert inside.shape == (5, 7)
    # Weights sum_i alpha_i x_i: outputs at x are the kernel across times alpha, and the same by coordinates.
    alpha = normal(7, 2)
    torch.testing.assert_close(inside @ (found.mT @ alpha), further @ known.mT @ alpha, rtol=0, atol=1e-12)
    again = coordinates(found, known @ known.mT)
    torch.testing.assert_close(again @ found.mT, known @ known.mT, rtol=0, atol=1e-12)
    # What is orthogonal to the span is left out: a point is no longer there than it is.
    assert (inside.square().sum(1) <= further.square().sum(1) + 1e-12).all()
