"""The memory behind tensors: distinct storages, regardless of the number of views of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from metabench.core.lazy import torch


def storages(tree: Any, device: torch.device | None = None) -> list[torch.UntypedStorage]:
    """Return the distinct storages of all tensors in `tree`, in the order of traversal.

    `tree` nests mappings, sequences, sets, dataclasses and modules (their parameters and buffers); anything else is
    ignored. Gradients in `.grad` are not followed. Views share a storage. Tensors of `torch.func` count as the tensors
    that they wrap, dual numbers with their tangents; meta and fake tensors have no memory. With
    `device`, only storages there are returned.
    """
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in _tensors(tree):
        # The zeros of forward mode have a size and no memory.
        if tensor._is_zerotensor():
            continue
        storage = tensor.untyped_storage()
        if storage.device.type == "meta" or not _lies_on(storage.device, device):
            continue
        # The storages are kept in `found`, so that no address can be given to another one while it is a key here.
        found.setdefault(storage._cdata, storage)
    return list(found.values())


def storage_bytes(tree: Any, device: torch.device | None = None) -> int:
    """Return the bytes of the distinct storages of all tensors in `tree`; a tensor and its views count once.

    See `storages` for what a tree may hold.
    """
    return sum(storage.nbytes() for storage in storages(tree, device))


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield from _plain(tree)
    elif isinstance(tree, torch.nn.Module):
        yield from _tensors([*tree.parameters(), *tree.buffers()])
    elif isinstance(tree, Mapping):
        yield from _tensors(list(tree.values()))
    elif isinstance(tree, list | tuple | set | frozenset):
        for branch in tree:
            yield from _tensors(branch)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        yield from _tensors([getattr(tree, field.name) for field in dataclasses.fields(tree)])


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    yield tensor
    if torch.autograd.forward_ad._current_level >= 0:
        tangent = torch.autograd.forward_ad.unpack_dual(tensor).tangent
        if tangent is not None:
            yield from _plain(tangent)


def _lies_on(place: torch.device, device: torch.device | None) -> bool:
    if device is None:
        return True
    return place.type == device.type and (device.index is None or place.index == device.index)
