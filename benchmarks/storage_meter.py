"""A second, independent meter: live bytes of tensor storages, watched from the dispatcher.

It sees what operations return, not what kernels allocate inside, and it changes the program slightly (the autograd
engine accumulates out of place under a dispatch mode). Its purpose is to check the allocator's record, not to replace it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageMeter(TorchDispatchMode):
    """Counts the bytes of real storages that operations inside the `with` block create, until each is freed.

    Storages are tracked by weak reference: a finaliser removes one when it is freed, before its address can be
    reused. Storages from before the block do not count, nor do meta and fake tensors, nor zeros that are not written out.
    With `device`, only storages on a device of its type count. `live_bytes` and `peak_bytes` can be read at any time.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._finalisers: dict[int, weakref.finalize[[int], torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata: storage for storage in self._storages((args, kwargs))}
        before = {key: storage.nbytes() for key, storage in given.items()}
        result = func(*args, **(kwargs or {}))
        for key, storage in given.items():
            if storage.nbytes() != before[key]:
                self._resized(key, storage)
        # `torch.tensor` fills its storage below the dispatcher and shows it first as the argument of `lift_fresh`.
        fresh = func is torch.ops.aten.lift_fresh.default
        for storage in self._storages(result):
            if storage._cdata not in self._sizes and (fresh or storage._cdata not in given):
                self._follow(storage)
        return result

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for finaliser in self._finalisers.values():
            finaliser.detach()
        self._finalisers.clear()

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._sizes[key] = size
        self._finalisers[key] = weakref.finalize(storage, self._forget, key)
        self._add(size)

    def _resized(self, key: int, storage: torch.UntypedStorage) -> None:
        if key not in self._sizes:
            self._follow(storage)
            return
        # The old block lives until its content has been copied to the new one.
        self._add(storage.nbytes())
        self.live_bytes -= self._sizes[key]
        self._sizes[key] = storage.nbytes()

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)
        del self._finalisers[key]

    def _add(self, size: int) -> None:
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _storages(self, tree: Any) -> list[torch.UntypedStorage]:
        tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
        # The tangents that forward mode knows to be zero are tensors whose storage has a size and no memory.
        written = (tensor for tensor in tensors if tensor.layout == torch.strided and not tensor._is_zerotensor())
        found = (tensor.untyped_storage() for tensor in written)
        return [storage for storage in found if self._counts(storage.device)]

    def _counts(self, place: torch.device) -> bool:
        return place.type != "meta" if self._device is None else place.type == self._device.type
