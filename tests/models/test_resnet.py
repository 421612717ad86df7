"""Residual networks have the papers' sizes, are twice differentiable in every mode, and are evaluated by one rule for normalisation."""

from __future__ import annotations

import math

import pytest
import torch

from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.models.batch_norm import SHOWN, for_evaluation
from metabench.models.classifiers import CLASSIFIERS, classifier
from metabench.models.resnet import ResNet

NORMALISED = {
    "resnet8w4": 5_006,
    "resnet8": 75_290,
    # He et al. 2016, table 6: 0.46M. EvoGrad's widths, x1 to x5: up to 11.5M.
    "resnet32": 464_154,
    "resnet32x2": 1_849_898,
    "resnet32x3": 4_157_242,
    "resnet32x4": 7_386_186,
    "resnet32x5": 11_536_730,
    # Zagoruyko & Komodakis 2016, table 4: 36.5M.
    "wrn28_10": 36_479_194,
    # Chen et al. 2019: torchvision's resnet18 and resnet34 with 10 classes have as many.
    "resnet10": 4_903_242,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
}
"""Parameters for images of 3 x 32 x 32 and ten classes."""

KINDS = {
    "cifar": ResNet.cifar(1, 4, (1, 12, 12), 3),
    "wide": ResNet.wide(1, 1, (1, 12, 12), 3),
    "small few-shot": ResNet(1, 4, ((4, 1), (6, 1)), 3, projected=True),
    "large few-shot": ResNet(1, 4, ((4, 1), (6, 1)), 3, projected=True, large=True),
}
every_kind = pytest.mark.parametrize("network", KINDS.values(), ids=KINDS)


def drawn(network: ResNet, n: int = 6, dtype: torch.dtype = torch.float64) -> tuple[tree.Tree, torch.Tensor]:
    images = torch.rand(n, 1, 12, 12, generator=generator(0, "images"), dtype=torch.float64)
    return network.initial(generator(0, "test"), dtype), images.to(dtype)


@pytest.mark.parametrize("size", list(NORMALISED))
def test_named_sizes_have_the_numbers_of_parameters_of_their_papers(size: str) -> None:
    network = classifier(size, (3, 32, 32), 10)
    assert isinstance(network, ResNet)
    assert sum(map(math.prod, network.shapes().values())) == NORMALISED[size]
    assert "\n" not in CLASSIFIERS()[size].title


def test_the_table_is_complete() -> None:
    assert [name for name, model in CLASSIFIERS().items() if "ResNet" in model.family] == list(NORMALISED)


def test_the_first_convolution_follows_the_images_side() -> None:
    stems = [classifier("resnet10", (3, side, side), 5).shapes()["stem.weight"] for side in (28, 84)]  # type: ignore[attr-defined]
    assert stems == [(64, 3, 3, 3), (64, 3, 7, 7)]


@every_kind
def test_parameters_have_the_declared_shapes_and_images_the_scores_of_their_classes(network: ResNet) -> None:
    params, images = drawn(network)
    assert {name: tuple(leaf.shape) for name, leaf in params.items()} == network.shapes()
    scores = network(params, images)
    assert scores.shape == (6, 3) and 0.05 < float(scores.std()) < 5
    narrow = network.initial(generator(0, "test"), torch.float32)
    assert all(torch.equal(leaf.float(), narrow[name]) for name, leaf in params.items())
    assert all(bool((leaf == 1).all()) for name, leaf in params.items() if "norm" in name and name.endswith("weight"))


@every_kind
def test_second_derivatives_agree_in_reverse_and_forward_mode_and_over_copies(network: ResNet) -> None:
    params, images = drawn(network)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    direction = tree.tree_map(
        lambda leaf: torch.randn(leaf.shape, generator=generator(1, "v"), dtype=leaf.dtype), params
    )

    def loss(w: tree.Tree) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(network(w, images), targets)

    leaves = tree.leaves_for_grad(params)
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    reverse = torch.autograd.grad(first, list(leaves.values()), list(direction.values()))
    _, forward = torch.func.jvp(torch.func.grad(loss), (params,), (direction,))
    largest = max(float(leaf.abs().max()) for leaf in reverse)
    for (name, ours), theirs in zip(forward.items(), reverse, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * largest, msg=name)
    # Between points further apart lies the kink of a ReLU.
    width = 1e-7
    ends = [torch.func.grad(loss)(tree.add_scaled(params, by, direction)) for by in (width, -width)]
    plain = tree.scale(1 / (2 * width), tree.subtract(*ends))
    assert float(tree.norm(tree.subtract(plain, forward))) < 1e-5 * float(tree.norm(forward))
    both = tree.tree_map(lambda leaf, by: torch.stack([leaf, leaf + 0.1 * by]), params, direction)
    values = torch.func.vmap(loss)(both)
    expected = [loss(params), loss(tree.add_scaled(params, 0.1, direction))]
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-10, atol=0)


@every_kind
def test_evaluated_images_do_not_see_each_other(network: ResNet) -> None:
    params, images = drawn(network)
    scores = for_evaluation(network, params, images.split(3))
    torch.testing.assert_close(scores(images[2:3]), scores(images)[2:3], rtol=1e-9, atol=1e-10)
    assert not torch.allclose(scores(images), network(params, images))


@every_kind
def test_the_statistics_of_one_batch_are_those_of_training_on_it(network: ResNet) -> None:
    params, images = drawn(network)
    torch.testing.assert_close(
        for_evaluation(network, params, [images])(images), network(params, images), rtol=1e-8, atol=1e-10
    )


def test_statistics_are_read_from_as_many_images_as_needed_and_from_none_without_normalisation() -> None:
    network = ResNet(1, 2, ((2, 1),), 2)
    params = network.initial(generator(0, "test"), torch.float32)
    read = iter([torch.rand(SHOWN // 2, 1, 4, 4)] * 3)
    for_evaluation(network, params, read)
    assert len(list(read)) == 1
    with pytest.raises(MetabenchError, match="there are none"):
        for_evaluation(network, params, [])
    plain = classifier("conv4", (1, 8, 8), 2)
    drawn_plain = plain.initial(generator(0, "test"), torch.float32)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(for_evaluation(plain, drawn_plain, [])(images), plain(drawn_plain, images))
