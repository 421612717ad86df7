"""A supernet: a net is a part of it, hypergradients go back where they belong, and a net trained by itself is the same net."""

from __future__ import annotations

import pytest
import torch

from metabench.core import Tree, tree
from metabench.core.errors import MetabenchError
from metabench.models.spaces import space
from metabench.models.supernet import Supernet

SUPERNET = Supernet(space("small"), (1, 16, 16), 3)
NET, OTHER = "conv3-sep5-pool3-conv3@8", "conv3-sep5-identity-sep3@16"


def drawn(seed: int = 0) -> Tree:
    return SUPERNET.initial(torch.Generator().manual_seed(seed), torch.float64)


def like(encoding: str, seed: int) -> Tree:
    stream = torch.Generator().manual_seed(seed)
    shapes = SUPERNET.net(encoding).shapes()
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


def test_a_cut_is_a_view_and_scores_as_the_net_does() -> None:
    shared = drawn()
    part = SUPERNET.cut(shared, NET)
    assert list(part) == list(SUPERNET.net(NET).shapes())
    for name, leaf in part.items():
        assert leaf.shape == SUPERNET.net(NET).shapes()[name]
        assert leaf.data_ptr() == shared[name].data_ptr()
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    assert SUPERNET.net(NET).scores(part, images).shape == (4, 3)


def test_scatter_is_the_transpose_of_cut() -> None:
    # <cut(s), x> = <s, scatter(x)> for all s and x: a wrong slice would break it.
    for encoding in (NET, OTHER):
        shared, leaves = drawn(1), like(encoding, 2)
        left = tree.dot(SUPERNET.cut(shared, encoding), leaves)
        right = tree.dot(shared, SUPERNET.scatter(encoding, leaves))
        assert float(left - right) == pytest.approx(0, abs=1e-12 * float(left.abs()))
        again = SUPERNET.cut(SUPERNET.scatter(encoding, leaves), encoding)
        assert all(torch.equal(again[name], leaf) for name, leaf in leaves.items())


def test_scatter_into_the_last_channels_would_be_seen() -> None:
    def wrong(encoding: str, leaves: Tree) -> Tree:
        found = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SUPERNET.shapes.items()}
        for name, leaf in leaves.items():
            found[name][
                tuple(slice(whole - part, None) for part, whole in zip(leaf.shape, found[name].shape, strict=True))
            ] = leaf
        return found

    shared, leaves = drawn(1), like(NET, 2)
    left = tree.dot(SUPERNET.cut(shared, NET), leaves)
    assert abs(float(left - tree.dot(shared, wrong(NET, leaves)))) > 0.1


def test_the_gradient_of_two_nets_that_share_a_block_is_the_sum_of_both() -> None:
    shared = {name: leaf.requires_grad_() for name, leaf in drawn().items()}
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = {net: SUPERNET.net(net).scores(SUPERNET.cut(shared, net), images).square().sum() for net in (NET, OTHER)}
    whole = torch.autograd.grad(sum(losses.values()), list(shared.values()), retain_graph=True, materialize_grads=True)
    total = tree.tree_map(torch.zeros_like, {name: leaf.detach() for name, leaf in shared.items()})
    for net in (NET, OTHER):
        part = {name: leaf.detach().requires_grad_() for name, leaf in SUPERNET.cut(shared, net).items()}
        found = torch.autograd.grad(SUPERNET.net(net).scores(part, images).square().sum(), list(part.values()))
        total = tree.add_scaled(total, 1, SUPERNET.scatter(net, dict(zip(part, found, strict=True))))
    expected = dict(zip(shared, whole, strict=True))
    assert float(tree.norm(tree.subtract(total, expected))) <= 1e-12 * float(tree.norm(expected))
    assert float(total["layer0.conv3.weight"].norm()) > 0 and float(total["layer3.sep3.point.weight"].norm()) > 0


def test_weights_of_another_space_are_refused() -> None:
    with pytest.raises(MetabenchError, match="these are not the weights of space 'small'"):
        SUPERNET.cut(Supernet(space("tiny"), (1, 16, 16), 3).initial(torch.Generator(), torch.float32), NET)
    with pytest.raises(MetabenchError, match=r"'head.weight' has the shape \(5, 16, 2, 2\)"):
        SUPERNET.cut(Supernet(space("small"), (1, 16, 16), 5).initial(torch.Generator(), torch.float32), NET)
