"""Bytes of storages: each counted once, whoever looks at it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from metabench.measure.memory.storages import storage_bytes, storages


@dataclass
class State:
    params: dict[str, torch.Tensor]
    step: int


def test_a_tensor_and_its_views_count_once() -> None:
    whole = torch.ones(10, 10)
    assert storage_bytes([whole, whole, whole[:5], whole.t(), whole.detach()]) == 400
    assert storage_bytes(whole[:1]) == 400


def test_every_kind_of_tree_is_walked() -> None:
    network = torch.nn.Linear(3, 2)
    network.register_buffer("seen", torch.zeros(5))
    tree = {"network": network, "state": (State({"w": torch.ones(7)}, 3), [torch.ones(1)]), "name": "sgd", "none": None}
    assert storage_bytes(tree) == 4 * (6 + 2 + 5 + 7 + 1)
    assert storage_bytes(()) == 0


def test_gradients_are_not_followed() -> None:
    weights = torch.ones(4, requires_grad=True)
    weights.sum().backward()
    assert storage_bytes(weights) == 16


def test_meta_and_fake_tensors_have_no_memory() -> None:
    assert storage_bytes(torch.ones(4, device="meta")) == 0
    with torch._subclasses.FakeTensorMode():
        assert storage_bytes(torch.ones(4)) == 0


def test_only_storages_on_the_device_count() -> None:
    weights = torch.ones(4)
    assert storage_bytes(weights, torch.device("cpu")) == 16
    assert storage_bytes(weights, torch.device("cuda")) == 0


def test_the_tensors_of_torch_func_are_looked_through() -> None:
    seen = []

    def loss(weights: torch.Tensor) -> torch.Tensor:
        seen.append(storage_bytes(weights))
        return weights.sum()

    torch.func.grad(loss)(torch.ones(5))
    torch.func.vmap(torch.func.grad(loss))(torch.ones(3, 5))
    assert seen == [20, 60]


def test_dual_numbers_count_with_their_tangents() -> None:
    primal, tangent = torch.ones(6), torch.zeros(6)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(primal, tangent)
        assert storage_bytes(dual) == 48
        assert storage_bytes([dual, tangent]) == 48
    assert storage_bytes(dual) == 24


def test_looking_at_storages_runs_no_operation() -> None:
    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            raise AssertionError(func)

    weights = torch.ones(3)
    with Refuse():
        assert len(storages([weights, weights])) == 1


def test_the_zeros_of_forward_mode_have_no_memory() -> None:
    assert storage_bytes(torch._efficientzerotensor(100)) == 0
    assert storage_bytes([torch._efficientzerotensor(100), torch.zeros(3)]) == 12
