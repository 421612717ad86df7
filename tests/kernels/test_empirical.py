"""Kernels of finite networks: against explicit derivatives, one way against the other, against infinite width, and what they need."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from metabench.core.errors import MetabenchError
from metabench.core.types import Tree
from metabench.kernels.activations import activation
from metabench.kernels.dense import MLP
from metabench.kernels.empirical import Empirical
from metabench.kernels.meta_kernel import Episode, MetaKernel
from metabench.kernels.responses import Time
from metabench.measure.memory.meter import measure_memory
from metabench.models.convnet import ConvNet
from metabench.models.lenet import LeNet
from metabench.models.mlp import MLP as Classifier
from metabench.models.wide import WideMLP


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=torch.float64)


def wide(width: int = 12, depth: int = 2, name: str = "gelu", seed: int = 0, inputs: int = 3) -> Empirical:
    network = WideMLP(inputs, width, depth, activation(name), 1.4, 0.3)
    params = network.initial(stream(seed), torch.float64)
    return Empirical(network, params, head=(f"{depth}.weight", f"{depth}.bias"))


def classifier(network: Any, head: str) -> Empirical:
    return Empirical(network, network.initial(stream(0), torch.float64), head=(f"{head}.weight", f"{head}.bias"))


NETWORKS = {
    "an MLP in NTK parametrisation": lambda: (wide(), normal(1, 4, 3), normal(2, 3, 3)),
    "a convolutional network": lambda: (
        classifier(ConvNet.of((3, 4), (1, 8, 8), 3), "head"),
        normal(1, 3, 1, 8, 8),
        normal(2, 2, 1, 8, 8),
    ),
    "LeNet": lambda: (
        classifier(LeNet.of(0.5, (1, 8, 8), 3), "dense2"),
        normal(1, 3, 1, 8, 8),
        normal(2, 2, 1, 8, 8),
    ),
}


def derivatives(of: Empirical, inputs: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """Return df_k(x)/dw by autograd, one output at a time, shape [n, outputs, parameters]."""
    params = {name: leaf.clone().requires_grad_() for name, leaf in of.params.items()}
    outputs = of.network(params, inputs).reshape(len(inputs), -1)
    rows = []
    for value in outputs.flatten():
        found = torch.autograd.grad(value, [params[name] for name in names], retain_graph=True)
        rows.append(torch.cat([one.flatten() for one in found]))
    return torch.stack(rows).unflatten(0, outputs.shape)


@pytest.mark.parametrize("way", ["jacobians", "products"])
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_products_of_derivatives(name: str, way: Any) -> None:
    of, rows, columns = NETWORKS[name]()
    of = dataclasses.replace(of, way=way)
    for names, kernel in ((tuple(of.params), Empirical.ntk), (of.head, Empirical.nngp)):
        left, right = derivatives(of, rows, names), derivatives(of, columns, names)
        full = torch.einsum("nkp,mlp->nmkl", left, right)
        traced = full.diagonal(dim1=2, dim2=3)
        size = full.abs().max()
        for outputs, expected in (("full", full), ("sum", traced.sum(-1)), ("mean", traced.mean(-1))):
            found = kernel(dataclasses.replace(of, outputs=outputs), rows, columns)
            assert found.shape == expected.shape and (found - expected).abs().max() < 1e-12 * size
        whole = torch.einsum("nkp,mkp->nm", left, left)
        assert (kernel(dataclasses.replace(of, outputs="sum"), rows) - whole).abs().max() < 1e-12 * whole.abs().max()


def test_few_columns_at_once_are_as_many() -> None:
    of, inputs = wide(width=64), normal(1, 7, 3)
    least = of.predicted_bytes("products", inputs)
    for budget in (least, least + least // 2, 2**30):
        found = dataclasses.replace(of, way="products", budget=budget).ntk(inputs)
        assert torch.allclose(found, of.ntk(inputs), rtol=1e-12, atol=1e-12)


def test_the_nngp_is_of_the_last_layers_features() -> None:
    of, inputs = wide(width=20, depth=1), normal(1, 4, 3)
    network = of.network
    assert isinstance(network, WideMLP)
    before = 1.4 / 3**0.5 * inputs @ of.params["0.weight"].mT + 0.3 * of.params["0.bias"]
    features = network.activation(before)
    assert torch.allclose(of.nngp(inputs), 1.96 / 20 * features @ features.mT + 0.09, rtol=1e-12)
    assert torch.equal(of.kernels(inputs).nngp, of.nngp(inputs)) and torch.equal(of.kernels(inputs).ntk, of.ntk(inputs))


@pytest.mark.parametrize("name", ["relu", "erf"])
def test_wider_networks_approach_the_kernel_of_infinite_width(name: str) -> None:
    inputs, widths, draws = normal(3, 3, 4), (64, 256, 1024, 4096), 8
    exact = MLP(1, name, 1.4, 0.3).kernels(inputs)
    logs = []
    for width in widths:
        errors = []
        for seed in range(draws):
            of = wide(width, 1, name, seed, inputs=4)
            errors.append(float((of.ntk(inputs) - exact.ntk).norm() / exact.ntk.norm()))
        logs.append(math.log(sum(errors) / draws))
    x = torch.tensor([math.log(width) for width in widths], dtype=torch.float64)
    y = torch.tensor(logs, dtype=torch.float64)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert -0.6 < slope < -0.4


@pytest.mark.parametrize("name", ["wide", "deep", "LeNet"])
def test_predicted_bytes_are_what_is_needed_at_most(name: str) -> None:
    of, inputs = {
        "wide": lambda: (wide(256, 1, inputs=8), normal(1, 16, 8)),
        "deep": lambda: (wide(256, 3, "relu", inputs=8), normal(1, 16, 8)),
        "LeNet": lambda: (classifier(LeNet.of(1, (1, 12, 12), 4), "dense2"), normal(1, 6, 1, 12, 12)),
    }[name]()
    for way in ("jacobians", "products"):
        predicted = of.predicted_bytes(way, inputs)
        chosen = dataclasses.replace(of, way=way, budget=predicted)
        chosen.ntk(inputs)
        _, memory = measure_memory(lambda one=chosen: one.ntk(inputs), (of.params, inputs), "cpu")
        assert predicted / 2 < memory.dynamic_bytes <= predicted
    more = 3 * of.predicted_bytes("products", inputs)
    chosen = dataclasses.replace(of, way="products", budget=more)
    _, memory = measure_memory(lambda: chosen.ntk(inputs), (of.params, inputs), "cpu")
    assert memory.dynamic_bytes <= more


def test_the_way_follows_from_the_budget() -> None:
    of, inputs = wide(256, 3, "relu"), normal(1, 16, 3)
    jacobians, products = (of.predicted_bytes(way, inputs) for way in ("jacobians", "products"))
    assert products < jacobians / 4
    for budget in (jacobians, jacobians - 1):
        chosen = dataclasses.replace(of, budget=budget)
        _, memory = measure_memory(lambda one=chosen: one.ntk(inputs), (of.params, inputs), "cpu")
        assert memory.dynamic_bytes <= budget
    with pytest.raises(MetabenchError, match=r"16 x 16 inputs needs [\d,]+ bytes by products, and the budget is"):
        dataclasses.replace(of, budget=products - 1).ntk(inputs)
    with pytest.raises(MetabenchError, match=r"by jacobians, and the budget is"):
        dataclasses.replace(of, budget=jacobians - 1, way="jacobians").ntk(inputs)


def test_a_meta_kernel_takes_an_empirical_one() -> None:
    of = wide(width=2048, depth=1, name="erf")
    tasks = [Episode(normal(9 * i, 2, 3), normal(1, 2, 1), normal(9 * i + 1, 3, 3), normal(2, 3, 1)) for i in range(2)]
    exact = MLP(1, "erf", 1.4, 0.3)
    for head in (False, True):
        found, limit = (
            MetaKernel(one, Time(1.0), head=head).between(tasks, tasks) for one in (of.kernels, exact.kernels)
        )
        assert (found - limit).norm() < 0.1 * limit.norm()


def by_batch(params: Tree, inputs: torch.Tensor) -> torch.Tensor:
    return (inputs - inputs.mean(0)) @ params["w"]


def squared(params: Tree, inputs: torch.Tensor) -> torch.Tensor:
    return (inputs @ params["w"]).square()


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        (by_batch, {}, "depend on the others in its batch"),
        (lambda params, inputs: (inputs @ params["w"]).sum(), {}, r"outputs of shape () for 4 inputs"),
        (squared, {}, "the NNGP of a finite network is of its last layer"),
        (squared, {"head": ("w",)}, "outputs are not affine in w"),
        (squared, {"head": ("v",)}, "unknown parameter of the head 'v'"),
        (squared, {"way": "jacobian"}, "unknown way to an empirical kernel 'jacobian': did you mean 'jacobians'?"),
        (squared, {"outputs": "trace"}, "unknown sum over outputs 'trace'"),
        (squared, {"params": {}}, "a network without parameters"),
    ],
)
def test_a_kernel_that_there_is_not_is_refused(network: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        of = Empirical(**{"network": network, "params": {"w": normal(0, 3)}} | options)
        (of.nngp if network is squared else of.ntk)(normal(1, 4, 3))
    assert words in str(error.value)


def test_a_classifier_of_the_package_has_a_kernel_per_class() -> None:
    network = Classifier.of((6,), (4,), 3)
    params = network.initial(stream(0), torch.float64)
    inputs = normal(1, 5, 4)
    full = Empirical(network, params, outputs="full").ntk(inputs)
    assert full.shape == (5, 5, 3, 3)
    gram = full.permute(0, 2, 1, 3).reshape(15, 15)
    assert torch.allclose(gram, gram.mT, atol=1e-13) and torch.linalg.eigvalsh(gram).min() > -1e-12
