"""Networks are pure functions of their parameters, of the declared sizes, twice differentiable, and the same in every number type."""

from __future__ import annotations

import re

import pytest
import torch

from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.models.classifiers import CLASSIFIERS, classifier

IMAGES = {"fashion": (1, 28, 28), "digits": (1, 8, 8), "colour": (3, 16, 16)}

COUNTS = {
    "mlp64": 784 * 64 + 64 + 64 * 10 + 10,
    "mlp256": 784 * 256 + 256 + 256 * 10 + 10,
    "mlp1024": 784 * 1024 + 1024 + 1024 * 10 + 10,
    "mlp512x3": 784 * 512 + 512 + 2 * (512 * 512 + 512) + 512 * 10 + 10,
    "conv4": (9 * 4 + 4) + (4 * 9 * 8 + 8) + 8 * 7 * 7 * 10 + 10,
    "conv8": (9 * 8 + 8) + (8 * 9 * 16 + 16) + 16 * 7 * 7 * 10 + 10,
    "conv16": (9 * 16 + 16) + (16 * 9 * 32 + 32) + 32 * 7 * 7 * 10 + 10,
    "conv32": (9 * 32 + 32) + (32 * 9 * 64 + 64) + 64 * 7 * 7 * 10 + 10,
    "lenet_half": (25 * 3 + 3) + (3 * 25 * 8 + 8) + (200 * 60 + 60) + (60 * 42 + 42) + 42 * 10 + 10,
    "lenet": (25 * 6 + 6) + (6 * 25 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + 84 * 10 + 10,
    "lenetx2": 244_362,
    "lenetx4": 972_554,
}

every_size = pytest.mark.parametrize("size", list(COUNTS))


def draw(size: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> tree.Tree:
    return classifier(size, shape, 10).initial(generator(seed, "test"), dtype)


def images(shape: tuple[int, ...], n: int = 5) -> torch.Tensor:
    return torch.rand(n, *shape, generator=generator(0, "images"), dtype=torch.float64)


def test_the_table_of_sizes_is_complete_and_each_has_its_line() -> None:
    # Networks whose examples see each other in training have tests of their own.
    assert [name for name, model in CLASSIFIERS().items() if "ResNet" not in model.family] == list(COUNTS)
    assert all(model.title.strip() and "\n" not in model.title for model in CLASSIFIERS().values())
    families = {"mlp": "MLP", "conv": "convolutional network", "lenet": "LeNet"}
    assert all(CLASSIFIERS()[name].family == families[re.match("mlp|conv|lenet", name)[0]] for name in COUNTS)


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(MetabenchError, match="unknown size 'mlp65': did you mean 'mlp64'"):
        classifier("mlp65", (1, 28, 28), 10)


@every_size
def test_named_sizes_have_their_numbers_of_parameters(size: str) -> None:
    assert tree.count(draw(size, IMAGES["fashion"])) == COUNTS[size]


@every_size
@pytest.mark.parametrize("data", list(IMAGES))
def test_scores_are_one_a_class_and_examples_do_not_see_each_other(size: str, data: str) -> None:
    shape = IMAGES[data]
    network, params, batch = classifier(size, shape, 10), draw(size, shape), images(shape)
    scores = network(params, batch)
    assert scores.shape == (5, 10)
    torch.testing.assert_close(network(params, batch[2:3]), scores[2:3], rtol=1e-12, atol=1e-13)
    assert classifier(size, shape, 3)(
        classifier(size, shape, 3).initial(generator(0, "x"), torch.float64), batch
    ).shape == (5, 3)


@every_size
def test_the_same_seed_draws_the_same_network_in_every_number_type(size: str) -> None:
    wide, narrow = draw(size, IMAGES["digits"]), draw(size, IMAGES["digits"], torch.float32)
    assert list(wide) == list(narrow)
    assert all(torch.equal(leaf.float(), narrow[name]) for name, leaf in wide.items())
    other = draw(size, IMAGES["digits"], seed=1)
    assert not any(torch.equal(leaf, other[name]) for name, leaf in wide.items() if name.endswith("weight"))


@every_size
def test_activations_keep_their_size_through_the_layers(size: str) -> None:
    shape = IMAGES["fashion"]
    batch = torch.randn(50, *shape, generator=generator(0, "normal"), dtype=torch.float64)
    spread = float(classifier(size, shape, 10)(draw(size, shape), batch).std())
    assert 0.1 < spread < 5


@pytest.mark.parametrize("size", ["mlp64", "mlp512x3", "conv8", "conv32", "lenet_half"])
def test_second_derivatives_exist_in_reverse_and_in_forward_mode_and_agree(size: str) -> None:
    shape = IMAGES["digits"]
    network, batch = classifier(size, shape, 10), images(shape, 4)
    params = tree.leaves_for_grad(draw(size, shape))
    targets = torch.tensor([0, 3, 3, 9])
    direction = tree.tree_map(
        lambda leaf: torch.randn(leaf.shape, generator=generator(1, "v"), dtype=leaf.dtype), params
    )

    def loss(w: tree.Tree) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(network(w, batch), targets)

    first = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
    reverse = torch.autograd.grad(first, list(params.values()), list(direction.values()))
    _, forward = torch.func.jvp(torch.func.grad(loss), (tree.detach(params),), (direction,))
    for (name, ours), theirs in zip(forward.items(), reverse, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)
    assert any(bool(leaf.any()) for leaf in reverse)


def test_gradients_of_small_networks_pass_gradcheck_twice() -> None:
    from metabench.models.convnet import ConvNet
    from metabench.models.mlp import MLP

    for network, shape in [(MLP((4, 3, 2)), (1, 2, 2)), (ConvNet((1, 2), 4, 2), (1, 4, 4))]:
        params = network.initial(generator(2, "check"), torch.float64)
        batch = images(shape, 2) - 0.5
        leaves = [leaf.requires_grad_() for leaf in params.values()]

        def scores(*values: torch.Tensor, network=network, names=tuple(params), batch=batch) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return network(dict(zip(names, values, strict=True)), batch).square()

        assert torch.autograd.gradcheck(scores, leaves)
        assert torch.autograd.gradgradcheck(scores, leaves)
