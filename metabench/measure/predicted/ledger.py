"""The allocator's ledger of a call on fake tensors: every block that it would take and release, in order, and none that is real.

Storages of fake tensors have sizes and no memory. They die as real ones do: with the tensor, with the graph of autograd, with a name going
out of scope; so the ledger follows them by weak reference. What is not visible in the results of operations is added by rule: the
workspaces of kernels (`kernel_memory`) and the engine's sums in place (`accumulation`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from metabench.measure.predicted.accumulation import accumulates_in_place
from metabench.measure.predicted.fake_results import Called, FakeResults
from metabench.measure.predicted.flat_runs import FlatRuns, KnownRuns
from metabench.measure.predicted.flops import flop_formula

aten = torch.ops.aten


class Ledger(TorchDispatchMode):
    """Counts the bytes that operations on fake tensors would take inside the `with` block. It goes on top of the fake mode.

    Storages from before the block do not count. Numbers that are read from a tensor are 1 or True, and all of its elements count as
    non-zero: so that a solver runs all of its steps, and a check of finite values passes.

    Attributes:
        live_bytes, peak_bytes: bytes now, and the most so far.
        flops: floating-point operations, by the formulas of torch's FLOP counter.
        operations: how many operations were called.

    Args:
        fakes: the mode whose tensors are followed.
        inside: (function, arguments, result) -> bytes that the operation holds beyond its results.
        block: sizes count in multiples of it.
        tell: is called with every change of the live bytes and how far above them an operation reaches for its duration.
        known: what ledgers of calls of the same steps found, and this one adds to.
    """

    def __init__(
        self,
        fakes: FakeTensorMode,
        inside: Callable[[Any, tuple[Any, ...], Any], int] | None,
        block: int,
        tell: Callable[[int, int], None] | None = None,
        known: KnownRuns | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = self.flops = self.operations = 0
        self._inside, self._block, self._tell = inside, block, tell
        self._call = FakeResults(fakes)
        self._costs: dict[Any, tuple[int, int]] = {}
        """By what tells calls apart, the bytes beyond their results and the floating-point operations."""
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        known = known or KnownRuns()
        self.steps = known.steps
        self._flat_runs = FlatRuns(self, self._call, known)
        self.noting: list[Any] | None = None
        """Where given, every change of the live bytes is noted in it, with how far above them an operation reaches."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Said otherwise, torch imports its compiler, and every operation goes through it.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        known = _operation(func)
        if known.answer is not None:
            return known.answer(args)
        kwargs = kwargs or {}
        self.operations += 1
        if known.indexed:
            args = _with_places(args)
        in_place = known.sums and accumulates_in_place(func, args, kwargs)
        before = _storages((args, kwargs)) if known.writes else {}
        sizes = {key: storage.nbytes() for key, storage in before.items()}
        # Not held on to longer than this call: what holds a gradient decides what the engine does with it.
        result, new, like = (
            self._call(func, args, kwargs) if known.full is None else Called(known.full(args), None, None)
        )
        grown = 0
        for key, size in sizes.items():
            if before[key].nbytes() != size:
                grown += self._resize(key, before[key])
        if new is None:
            given = _storages((args, kwargs))
            new = [tensor for tensor in _fake(result) if tensor.untyped_storage()._cdata not in given]
        for tensor in new:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sizes and _has_memory(tensor):
                grown += self._follow(storage, in_place)
        if in_place:
            self._take_over(args[0], result)
        cost = None if like is None else self._costs.get(like)
        if cost is None:
            beyond = self._rounded(self._inside(func, args, result)) if self._inside is not None else 0
            formula = flop_formula(func._overloadpacket)
            cost = beyond, 0 if formula is None else formula(*args, **kwargs, out_val=result)
            if like is not None:
                self._costs[like] = cost
        self._add(grown, cost[0])
        self.flops += cost[1]
        return result

    def run_flat(self, run: Callable[[list[Any]], list[Any]], given: list[Any]) -> list[Any]:
        """Return `run(given)`, a list of operations without branches; one that is known need not be simulated again."""
        return run(given) if self._tell is not None else self._flat_runs(run, given)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._references.clear()

    def bytes_of(self, tree: Any) -> int:
        """Return the bytes of those tensors in `tree` that were made inside the block; a storage counts once."""
        return sum(self._sizes.get(key, 0) for key in {tensor.untyped_storage()._cdata for tensor in _fake(tree)})

    def size_of(self, key: int) -> int:
        """Return what a storage that was made inside the block counts, by its address; 0 for another."""
        return self._sizes.get(key, 0)

    def follow(self, storage: torch.UntypedStorage, size: int) -> None:
        """Take `size` bytes off the live ones, to which they have been added, when the storage dies."""
        key = storage._cdata
        self._sizes[key] = size
        self._references[key] = weakref.ref(storage, lambda _: self._forget(key))

    def add_at_once(self, rise: int, net: int) -> None:
        """Add what several operations did: `rise` live bytes at most, `net` in the end."""
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + rise)
        self.live_bytes += net
        if self.noting is not None:
            self.noting.append((net, rise - net))

    def _follow(self, storage: torch.UntypedStorage, in_place: bool) -> int:
        size = 0 if in_place else self._rounded(storage.nbytes())
        self.follow(storage, size)
        return size

    def _forget(self, key: int) -> None:
        del self._references[key]
        self._add(-self._sizes.pop(key), 0)

    def _take_over(self, old: FakeTensor, result: FakeTensor) -> None:
        """Hand the block of `old` on to what is its sum in place: it is the engine's own, and dies unread."""
        key = old.untyped_storage()._cdata
        if key in self._sizes:
            self._sizes[result.untyped_storage()._cdata], self._sizes[key] = self._sizes[key], 0

    def _resize(self, key: int, storage: torch.UntypedStorage) -> int:
        """Note a new size. The old block lives until its content has been copied to the new one."""
        size = self._rounded(storage.nbytes())
        if key not in self._sizes:
            return self._follow(storage, in_place=False)
        self._add(size, 0)
        self._add(-self._sizes[key], 0)
        self._sizes[key] = size
        return 0

    def _rounded(self, size: int) -> int:
        return -(-size // self._block) * self._block

    def _add(self, size: int, beyond: int) -> None:
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + beyond)
        if self.noting is not None:
            self.noting.append((size, beyond))
        if self._tell is not None and (size or beyond):
            self._tell(size, beyond)


def _fake(tree: Any) -> Iterator[FakeTensor]:
    if isinstance(tree, FakeTensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _fake(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from _fake(branch)


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """Return the storages of the fake tensors in `tree`."""
    storages = [tensor.untyped_storage() for tensor in _fake(tree)]
    return {storage._cdata: storage for storage in storages}


def _has_memory(tensor: FakeTensor) -> bool:
    """Return whether a tensor would have memory: symbolic zeros have none, nor what torch works their shapes out with."""
    return not tensor._is_zerotensor() and tensor.fake_device.type != "meta"


def _number(args: tuple[Any, ...]) -> Any:
    dtype = args[0].dtype
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else complex(1.0) if dtype.is_complex else 1


def _all_places(args: tuple[Any, ...]) -> torch.Tensor:
    return torch.empty((args[0].numel(), args[0].dim()), dtype=torch.int64, device=args[0].fake_device)


def _with_places(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of an operation by indices, masks among them replaced by the places of all elements that they mask."""
    if not any(index is not None and _is_mask(index) for index in args[1]):
        return args
    indices: list[torch.Tensor | None] = []
    for index in args[1]:
        if index is not None and _is_mask(index):
            indices += _all_places((index,)).unbind(1)
        else:
            indices.append(index)
    return (args[0], indices, *args[2:])


def _is_mask(index: torch.Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


_DEVICE = torch.ops.prim.device.default

_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}

_ANSWERS: dict[Any, Callable[[tuple[Any, ...]], Any]] = {
    aten._local_scalar_dense.default: _number,
    aten.is_nonzero.default: lambda args: True,
    aten.equal.default: lambda args: True,
}
_FULL: dict[Any, Callable[[tuple[Any, ...]], torch.Tensor]] = {
    aten.nonzero.default: _all_places,
    aten.masked_select.default: lambda args: args[0].new_empty(
        torch.broadcast_shapes(args[0].shape, args[1].shape).numel()
    ),
}


class _Operation(NamedTuple):
    """What the ledger asks of every call of an operation, worked out once."""

    function: Any
    answer: Callable[[tuple[Any, ...]], Any] | None
    full: Callable[[tuple[Any, ...]], torch.Tensor] | None
    indexed: bool
    sums: bool
    writes: bool


_operations: dict[int, _Operation] = {}
"""By the operation's address: its hash is a function of Python."""


def _operation(function: Any) -> _Operation:
    known = _operations.get(id(function))
    if known is None:
        known = _operations[id(function)] = _Operation(
            function,
            _ANSWERS.get(function),
            _FULL.get(function),
            function._overloadpacket in _INDEXED,
            function is aten.add.Tensor,
            function._schema.is_mutable,
        )
    return known
