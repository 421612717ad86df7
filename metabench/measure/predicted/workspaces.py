"""What CPU kernels allocate beside their results: bytes as functions of shapes, strides and dtypes.

Each rule was read off the allocator's record of the operation alone (`AllocatorEvents`, torch 2.13, one thread), in float32, float64 and
bfloat16 at several shapes; the tests do it again. What has no rule was seen to allocate nothing but its results, or a few bytes a call.
The kernels of oneDNN allocate by the vector width, and their rules hold for AVX2 alone; the others were seen to hold with SSE4.1, AVX2 and
AVX-512. Where no rule is known to hold, as with another release of torch, nothing is counted, and `Workspaces` says so. On CUDA no rule
applies: there kernels work in place, and cuBLAS and cuDNN take what workspaces they are allowed to.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch.utils._mode_utils import no_dispatch

from metabench.measure.kernels import AVX2, BASELINE, vectors
from metabench.measure.predicted.convolutions import convolution, convolution_backward, unknown_convolution

aten = torch.ops.aten

Rule: TypeAlias = Callable[[tuple[Any, ...], Any], int]
"""(arguments, result) -> bytes beyond the result at the operation's peak."""

_TRANSPOSED_COPY = 60
"""torch copies a transposed matrix in tiles of 60 x 60, by way of a buffer of that size."""

_REDUCED = (torch.bfloat16, torch.float16)


RELEASE = "2.13"
"""The release of torch that the rules were read off."""

VECTORS = (f"{BASELINE} (oneDNN: SSE4.1)", AVX2, "AVX-512")
"""The instruction sets, as `metabench.measure.kernels.vectors` names them, that the rules were seen to hold with."""


class Workspaces:
    """The rules as far as they hold for a release of torch and an instruction set: by default, for those of this process.

    An instance is called as `kernel_bytes` is, and remembers what it could not count.
    """

    def __init__(self, release: str | None = None, instructions: str | None = None) -> None:
        self._release = str(torch.__version__) if release is None else release
        self._instructions = vectors() if instructions is None else instructions
        self._applies = self._release.startswith(f"{RELEASE}.") and self._instructions in VECTORS
        self._left_out: dict[str, None] = {}

    def __call__(self, function: Any, arguments: tuple[Any, ...], result: Any) -> int:
        """Return the bytes that an operation holds on a CPU beyond its results, at its peak; 0 where that is not known."""
        if not self._applies:
            return 0
        if unknown := self._unknown(function._overloadpacket, arguments):
            self._left_out[unknown] = None
            return 0
        return kernel_bytes(function, arguments, result)

    @property
    def note(self) -> str:
        """What was not counted and why; empty if everything was."""
        if not self._applies:
            return (
                f"workspaces of CPU kernels are not counted: they are known for torch {RELEASE} on x86, "
                f"this is torch {self._release} with {self._instructions} kernels"
            )
        return "; ".join(f"workspaces of {name} are not counted: not known for {self._instructions}" for name in self._left_out)

    def _unknown(self, packet: Any, arguments: tuple[Any, ...]) -> str:
        """Return what an operation is called if oneDNN computes it in a way that no rule is known for."""
        if packet in _CONVOLUTIONS:
            images, weight, groups = (arguments[place] for place in _CONVOLUTIONS[packet])
            return unknown_convolution(images, weight, groups, self._instructions)
        first = (_PRODUCTS | _BATCHED_PRODUCTS).get(packet)
        if first is not None and self._instructions == "AVX-512" and arguments[first].dtype in _REDUCED:
            return "matrix products in bfloat16 or float16"
        return ""


def kernel_bytes(function: Any, arguments: tuple[Any, ...], result: Any) -> int:
    """Return the bytes that an operation holds on a CPU beyond its results, at its peak, with AVX2 kernels."""
    packet = function._overloadpacket
    rule = _RULES.get(packet)
    inside = 0 if rule is None else rule(arguments, result)
    if packet in _ELEMENTWISE and isinstance(result, torch.Tensor):
        inside += _promoted(function, arguments)
    return inside


def _promoted(function: Any, arguments: tuple[Any, ...]) -> int:
    """Return the bytes of operands that are cast to the common dtype before an elementwise operation.

    Numbers are operands too: a double or a long, cast where the common type is another. `Scalar` overloads wrap it themselves.
    """
    tensors = [a for a in arguments[:3] if isinstance(a, torch.Tensor)]
    numbers = [arguments[place] for place in _tensor_places(function) if _is_number(arguments, place)]
    within = function._overloadname == "Scalar"
    if within and _is_number(arguments, 1):
        numbers.append(arguments[1])
    if not numbers and all(tensor.dtype is tensors[0].dtype for tensor in tensors):
        return 0
    common = _common_type(tuple((t.dtype, t.dim() > 0) for t in tensors), tuple(type(number) for number in numbers))
    operands = tensors[1:] if function._schema.is_mutable else tensors
    cast = sum(t.numel() * common.itemsize for t in operands if t.dtype is not common and t.dtype is not torch.bool)
    for number in numbers:
        cast += 8 if within else 0
        cast += 0 if _WRAPPED[type(number)] is common else common.itemsize
    return cast


_WRAPPED = {bool: torch.bool, int: torch.int64, float: torch.float64}


@functools.cache
def _common_type(tensors: tuple[tuple[torch.dtype, bool], ...], numbers: tuple[type, ...]) -> torch.dtype:
    """Return the dtype in which tensors, given by type and whether they have dimensions, meet with numbers of Python."""
    with no_dispatch():
        made = [torch.empty((1,) if has_dimensions else (), dtype=dtype) for dtype, has_dimensions in tensors]
        meeting = made[0]
        for other in [*made[1:], *(kind(1) for kind in numbers)]:
            meeting = torch.empty_like(meeting, dtype=torch.result_type(meeting, other))
    return meeting.dtype


@functools.cache
def _tensor_places(function: Any) -> tuple[int, ...]:
    return tuple(i for i, argument in enumerate(function._schema.arguments[:3]) if str(argument.type) == "Tensor")


def _is_number(arguments: tuple[Any, ...], place: int) -> bool:
    return place < len(arguments) and isinstance(arguments[place], int | float)


def _copied_for_blas(matrix: torch.Tensor) -> int:
    """Return the bytes of a copy of a matrix that BLAS cannot read: neither its rows nor its columns are dense and apart."""
    *_, rows, columns = matrix.shape
    *_, down, across = matrix.stride()
    if (down == 1 and across >= max(1, rows)) or (across == 1 and down >= max(1, columns)):
        return 0
    return rows * columns * matrix.itemsize


def _product(first: int) -> Rule:
    """Return the rule of a product of the matrices at places `first` and `first` + 1: both copies are alive together."""
    return lambda arguments, _: sum(_copied_for_blas(m) for m in arguments[first : first + 2] if m.dim() == 2)


def _batched_product(first: int) -> Rule:
    """Return the same of a batch of matrices: one matrix's copies are alive at a time."""
    return lambda arguments, _: sum(_copied_for_blas(m) for m in arguments[first : first + 2])


def _logsumexp(arguments: tuple[Any, ...], result: torch.Tensor) -> int:
    """The exponentials of all inputs, and the largest of each row again."""
    return arguments[0].nbytes + result.nbytes


def _layer_norm_backward(arguments: tuple[Any, ...], _: Any) -> int:
    """Two rows a thread for the sums of the scale's and the shift's gradient."""
    inputs, wanted = arguments[1], arguments[-1]
    if not (wanted[1] or wanted[2]):
        return 0
    return 2 * torch.get_num_threads() * math.prod(arguments[2]) * inputs.itemsize


def _group_norm_backward(arguments: tuple[Any, ...], _: Any) -> int:
    """Two sums for each image and channel."""
    inputs = arguments[1]
    return 2 * inputs.shape[0] * inputs.shape[1] * max(inputs.itemsize, 4)


def _batch_norm(arguments: tuple[Any, ...], _: Any) -> int:
    return 2 * arguments[0].shape[1] * max(arguments[0].itemsize, 4)


def _sort(arguments: tuple[Any, ...], _: Any) -> int:
    """A line of values and of indices."""
    given = next((a for a in arguments[1:] if isinstance(a, int) and not isinstance(a, bool)), -1)
    return 8 * arguments[0].shape[given] if arguments[0].dim() else 0


def _mean(arguments: tuple[Any, ...], result: torch.Tensor) -> int:
    """A sum, divided by a number; in a reduced type, of the inputs cast to float32."""
    inputs = arguments[0]
    if inputs.dtype in _REDUCED:
        return 4 * (inputs.numel() + result.numel()) + 12
    return 8 + result.itemsize


def _isinf(arguments: tuple[Any, ...], _: Any) -> int:
    """The absolute values."""
    return arguments[0].nbytes + 8 + (0 if arguments[0].dtype is torch.float64 else arguments[0].itemsize)


def _scatter(arguments: tuple[Any, ...], _: Any) -> int:
    """A float32 copy of the whole target, in a reduced type."""
    return 4 * arguments[0].numel() if arguments[0].dtype in _REDUCED else 0


def _copy_of(source: int) -> Rule:
    """Return the rule of a copy of the argument at place `source` into a dense block."""

    def rule(arguments: tuple[Any, ...], result: torch.Tensor) -> int:
        given = arguments[source]
        if not isinstance(given, torch.Tensor) or given.dim() != 2 or given.dtype is not result.dtype:
            return 0
        is_transposed = given.stride() == (1, given.shape[0]) and result.is_contiguous()
        large = given.numel() >= _TRANSPOSED_COPY**2
        return _TRANSPOSED_COPY**2 * given.itemsize if is_transposed and large else 0

    return rule


def _elementwise_loss(times: int) -> Rule:
    """Return the rule of a loss that is worked out for every example before it is reduced: `times` blocks of its inputs' size."""

    def rule(arguments: tuple[Any, ...], result: torch.Tensor) -> int:
        inputs = arguments[0]
        return max(times * inputs.nbytes - result.nbytes, 0) + 8 + inputs.itemsize if result.dim() == 0 else 0

    return rule


def _square(copies: int) -> Rule:
    """Return the rule of a factorisation that works on `copies` copies of its matrix."""
    return lambda arguments, _: copies * arguments[0].nbytes


_PRODUCTS: dict[Any, int] = {
    aten.mm: 0,
    aten.addmm: 1,
    aten.mv: 0,
    aten.addmm_: 1,
    aten.addmv: 1,
    aten.addmv_: 1,
}
"""Products of two matrices, by the place of the first."""

_BATCHED_PRODUCTS: dict[Any, int] = {aten.bmm: 0, aten.baddbmm: 1, aten.baddbmm_: 1}

_CONVOLUTIONS: dict[Any, tuple[int, int, int]] = {aten.convolution: (0, 1, 8), aten.convolution_backward: (1, 2, 9)}
"""The places of images, weights and the number of groups."""

_RULES: dict[Any, Rule] = {
    **{product: _product(first) for product, first in _PRODUCTS.items()},
    **{product: _batched_product(first) for product, first in _BATCHED_PRODUCTS.items()},
    aten.logsumexp: _logsumexp,
    aten.native_layer_norm_backward: _layer_norm_backward,
    aten.native_group_norm_backward: _group_norm_backward,
    aten.native_batch_norm: _batch_norm,
    aten.convolution: convolution,
    aten.convolution_backward: convolution_backward,
    aten.sort: _sort,
    aten.mean: _mean,
    aten.isinf: _isinf,
    aten.scatter: _scatter,
    aten.scatter_: _scatter,
    aten.scatter_add: _scatter,
    aten.scatter_add_: _scatter,
    aten.clone: _copy_of(0),
    aten._to_copy: _copy_of(0),
    aten.copy_: _copy_of(1),
    aten.mse_loss: _elementwise_loss(2),
    aten.smooth_l1_loss: _elementwise_loss(2),
    aten.huber_loss: _elementwise_loss(1),
    aten.binary_cross_entropy_with_logits: _elementwise_loss(2),
    aten._linalg_eigh: _square(2),
    aten.linalg_inv_ex: _square(1),
    aten.cholesky_solve: lambda arguments, _: arguments[1].nbytes,
}


def _elementwise() -> Iterator[Any]:
    names = (
        "add sub rsub mul div pow maximum minimum fmod remainder atan2 where eq ne lt le gt ge logical_and logical_or"
    )
    for name in names.split():
        for variant in (name, f"{name}_"):
            if hasattr(aten, variant):
                yield getattr(aten, variant)


_ELEMENTWISE = frozenset(_elementwise())
