"""Trees are vectors: every operation is that of the flat vector."""

from __future__ import annotations

import pytest
import torch

from metabench.core import Tree, tree


def some(seed: int, dtype: torch.dtype = torch.float64) -> Tree:
    stream = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=stream, dtype=dtype) for k, s in {"b": (3, 2), "a": (), "c": (4,)}.items()}


X, Y = some(0), some(1)
x, y = tree.flatten(X), tree.flatten(Y)


def test_flatten_keeps_the_order_of_the_names_and_unflatten_is_its_inverse() -> None:
    assert x.shape == (11,)
    assert torch.equal(x[:6], X["b"].reshape(-1))
    back = tree.unflatten(x, X)
    assert list(back) == ["b", "a", "c"]
    assert all(torch.equal(back[name], leaf) for name, leaf in X.items())


def test_operations_are_those_of_flat_vectors() -> None:
    for found, expected in [
        (tree.add(X, Y), x + y),
        (tree.subtract(X, Y), x - y),
        (tree.scale(-2.5, X), -2.5 * x),
        (tree.scale(torch.tensor(0.5), X), 0.5 * x),
        (tree.add_scaled(X, 0.3, Y), x + 0.3 * y),
        (tree.zeros_like(X), torch.zeros(11)),
        (tree.mean([X, Y, X]), (2 * x + y) / 3),
        (tree.mean(iter([X])), x),
        (tree.tree_map(lambda a, b: a * b, X, Y), x * y),
    ]:
        assert list(found) == ["b", "a", "c"]
        torch.testing.assert_close(tree.flatten(found), expected.double(), rtol=1e-15, atol=1e-15)
    assert float(tree.dot(X, Y)) == pytest.approx(float(x @ y), rel=1e-14)
    assert float(tree.norm(X)) == pytest.approx(float(x.norm()), rel=1e-14)
    assert tree.count(X) == 11


def test_leaves_are_matched_by_name_and_not_by_order() -> None:
    turned = {name: Y[name] for name in reversed(Y)}
    assert torch.equal(tree.flatten(tree.add(X, turned)), x + y)
    assert float(tree.dot(X, turned)) == float(tree.dot(X, Y))


def test_detach_and_leaves_cut_the_graph() -> None:
    recorded = tree.scale(2.0, tree.leaves_for_grad(X))
    assert all(leaf.grad_fn is not None for leaf in recorded.values())
    assert not any(leaf.requires_grad for leaf in tree.detach(recorded).values())
    fresh = tree.leaves_for_grad(recorded)
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in fresh.values())
    assert not any(leaf.requires_grad for leaf in X.values())


def test_cast_changes_floats_alone() -> None:
    mixed = {"x": torch.ones(2, dtype=torch.float64), "index": torch.arange(3)}
    found = tree.cast(mixed, torch.float32)
    assert (found["x"].dtype, found["index"].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_all_finite_sees_one_bad_number(bad: float) -> None:
    assert tree.all_finite(X)
    assert not tree.all_finite({**X, "a": torch.tensor(bad)})


def test_digests_agree_where_all_bits_agree_and_the_sign_of_zero_is_no_bit() -> None:
    zero = {"a": torch.tensor([0.0, 1.0])}
    assert len(tree.digest(X)) == 16 and tree.digest(X) == tree.digest(some(0)) != tree.digest(Y)
    assert tree.digest(zero) == tree.digest({"a": torch.tensor([-0.0, 1.0])})
    others = [
        {"b": zero["a"]},
        {"a": zero["a"].double()},
        {"a": zero["a"].reshape(2, 1)},
        {"a": torch.tensor([0.0, 1.0]).nextafter(torch.tensor(2.0))},
        {"a": zero["a"], "b": torch.zeros(())},
    ]
    found = {tree.digest(one) for one in (zero, *others)}
    assert len(found) == 1 + len(others)
    assert tree.digest({"a": torch.arange(6.0).reshape(2, 3).T}) == tree.digest({"a": torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])})
