"""Wide networks with several outputs, and points in the span of others."""

from __future__ import annotations

import pytest
import torch

from metabench.core.randomness import generator
from metabench.kernels.activations import activation
from metabench.models.wide import LinearModel, WideMLP, coordinates, factor


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
