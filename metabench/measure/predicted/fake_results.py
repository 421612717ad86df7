"""What an operation on fake tensors returns, remembered by the shapes of its arguments.

torch's fake mode remembers too, and takes several times as long to look it up: it is made for shapes that are symbols. So is its
constructor of fake tensors, which takes three times as long as a copy of what another one has been given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

_OTHER_STORAGE = set(map(torch.ops.aten.set_.__getattr__, torch.ops.aten.set_.overloads()))

_NUMBERS = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class _Unknown(Exception):
    """An argument by which results are not remembered."""


class _FirstArgument:
    """The result of an operation that writes to its first argument and returns it."""


_WRITTEN = (_FirstArgument, ())


class Layout(NamedTuple):
    """A result: a new tensor, or a view of the argument at the place `base`."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    base: int | None


_known: dict[Any, tuple[type | None, tuple[Layout, ...]] | None] = {}
_MOST_KNOWN = 100_000


class Called(NamedTuple):
    """A call's result.

    new: the results with a block of their own; None where that was not looked at. key: equal for calls whose results are alike, and what
    follows from them and from the arguments' layouts; None where unknown.
    """

    result: Any
    new: list[FakeTensor] | None
    key: Any


class FakeResults:
    """Calls operations under a fake mode; a call with the shapes, strides and settings of an earlier one makes its results anew.

    A result is remembered where it is a new dense block, a view of one argument, or the first argument, written to and else as it was.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._models: dict[torch.device, dict[str, Any] | None] = {}
        if len(_known) > _MOST_KNOWN:
            _known.clear()

    def __call__(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Called:
        """Return the result of `function(*arguments, **keywords)`, and how to tell it from others."""
        given: list[FakeTensor] = []
        try:
            # By its address: the hash of an operation is a function of Python. torch keeps operations for good.
            key = (
                id(function),
                self._key(arguments, given),
                self._key(tuple(keywords.items()), given) if keywords else (),
            )
        except _Unknown:
            return Called(function(*arguments, **keywords), None, None)
        if (known := _known.get(key)) is not None:
            kind, layouts = known
            if known is _WRITTEN:
                return Called(arguments[0], [], key)
            made = [self.made(layout, None if layout.base is None else given[layout.base]) for layout in layouts]
            new = [tensor for tensor, layout in zip(made, layouts, strict=True) if layout.base is None]
            return Called(made[0] if kind is None else kind(made), new, key)
        result = function(*arguments, **keywords)
        if key not in _known:
            if not function._schema.is_mutable:
                _known[key] = self._layouts(result, given)
            elif result is arguments[0] and function not in _OTHER_STORAGE and self._key(arguments, []) == key[1]:
                _known[key] = _WRITTEN
        return Called(result, None, key if _known.get(key) is not None else None)

    def shapes_of(self, given: list[Any]) -> Any:
        """Return what tells lists of tensors of other shapes apart, hashable; None if one of them is not fake."""
        try:
            return self._key(given, []) if all(isinstance(tensor, FakeTensor) for tensor in given) else None
        except _Unknown:
            return None

    def stand_ins(self, given: list[FakeTensor], firsts: Sequence[int]) -> list[FakeTensor]:
        """Return tensors like `given` with blocks of their own; `firsts` says for each which is the first that shares its block."""
        made: list[FakeTensor] = []
        for tensor, first in zip(given, firsts, strict=True):
            layout = Layout(*self._key(tensor, []), None)
            base = made[first] if first < len(made) else None
            if base is None:
                base = self.block(tensor.untyped_storage().nbytes(), tensor.fake_device)
            made.append(self.made(layout, base))
        return made

    def layout_of(self, tensor: Any, storages: Mapping[int, int]) -> Layout | None:
        """Return how to make a tensor again, as a view where `storages` has a place for its storage's address; None where unknown."""
        if not isinstance(tensor, FakeTensor):
            return None
        try:
            return Layout(*self._key(tensor, []), storages.get(tensor.untyped_storage()._cdata))
        except _Unknown:
            return None

    def _key(self, tree: Any, given: list[FakeTensor]) -> Any:
        if isinstance(tree, FakeTensor):
            if tree._is_zerotensor() or tree.is_conj() or tree.is_neg() or tree.layout is not torch.strided:
                raise _Unknown
            given.append(tree)
            return (tree.shape, tree.stride(), tree.storage_offset(), tree.dtype, tree.fake_device)
        if isinstance(tree, list | tuple):
            return tuple([self._key(branch, given) for branch in tree])
        if isinstance(tree, _NUMBERS):
            return (type(tree), tree)
        raise _Unknown

    def _layouts(self, result: Any, given: list[FakeTensor]) -> tuple[type | None, tuple[Layout, ...]] | None:
        """Return how to make the result again, or None where that is not known."""
        kind = type(result) if type(result) in (list, tuple) else None
        bases = {tensor.untyped_storage()._cdata: place for place, tensor in reversed(list(enumerate(given)))}
        layouts: list[Layout] = []
        met: set[int] = set()
        for tensor in result if kind else [result]:
            if not isinstance(tensor, FakeTensor) or tensor._is_zerotensor() or tensor.layout is not torch.strided:
                return None
            storage = tensor.untyped_storage()
            base = bases.get(storage._cdata)
            size = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            if base is None:
                whole = (size if tensor.numel() else 0) * tensor.itemsize
                if tensor.storage_offset() or storage.nbytes() != whole or storage._cdata in met:
                    return None
                met.add(storage._cdata)
            layouts.append(
                Layout(
                    tuple(tensor.shape),
                    tensor.stride(),
                    tensor.storage_offset(),
                    tensor.dtype,
                    tensor.fake_device,
                    base,
                )
            )
        return kind, tuple(layouts)

    def block(self, size: int, device: torch.device) -> FakeTensor:
        """Return a tensor with a block of `size` bytes."""
        return self.made(Layout((size,), (1,), 0, torch.uint8, device, None), None)

    def made(self, layout: Layout, base: FakeTensor | None) -> FakeTensor:
        """Return a tensor of a layout: a view of `base`'s block, or a block of its own."""
        with no_dispatch():
            if base is None:
                plain = torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device="meta")
            else:
                plain = torch.empty(0, dtype=layout.dtype, device="meta")
                plain.set_(base.untyped_storage(), layout.offset, layout.shape, layout.stride)  # type: ignore[call-overload]
            if layout.device not in self._models:
                self._models[layout.device] = self._model(layout.device)
            state = self._models[layout.device]
            if state is None:
                return FakeTensor(self._mode, plain, layout.device)
            tensor = _like_torchs(plain, layout.device)
        tensor.__dict__.update(state)
        return tensor

    def _model(self, device: torch.device) -> dict[str, Any] | None:
        """Return what torch gives to a new fake tensor on a device; None where a tensor that is given the same would not be alike."""
        plain = torch.empty(1, device="meta")
        model = FakeTensor(self._mode, plain, device)
        tensor = _like_torchs(plain, device)
        state = dict(vars(model))
        tensor.__dict__.update(state)
        alike = torch._C._dispatch_keys(tensor) == torch._C._dispatch_keys(model)
        return state if alike and tensor.fake_device == model.fake_device else None


def _like_torchs(plain: torch.Tensor, device: torch.device) -> FakeTensor:
    made: FakeTensor = torch.Tensor._make_subclass(  # type: ignore[attr-defined]
        FakeTensor, plain, False, dispatch_device=True, device_for_backend_keys=device
    )
    return made
