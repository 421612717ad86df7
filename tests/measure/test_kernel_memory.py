"""What kernels allocate beside their results is as the rules say: by the allocator's own record of the operation alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_choice import not_avx512, only_avx2
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metabench.measure.memory.allocator_events import AllocatorEvents
from metabench.measure.predicted.workspaces import RELEASE, VECTORS, Workspaces, kernel_bytes

aten = torch.ops.aten
BFLOAT16_PRODUCTS = pytest.param(torch.bfloat16, marks=not_avx512)
pytestmark = pytest.mark.kernels
rules_hold = pytest.mark.skipif(bool(Workspaces().note), reason=Workspaces().note)
FEW = 128
"""Bytes of shapes, strides, flags and numbers that an operation takes here and there, which no rule counts."""


class KernelRecord(TorchDispatchMode):
    """Records, for each operation, what it held beyond its results at its peak, and what the rules say of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        with AllocatorEvents() as record:
            result = func(*args, **(kwargs or {}))
        made = {storage(leaf): leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        results = sum(leaf.untyped_storage().nbytes() for key, leaf in made.items() if key not in given)
        self.found.append((str(func), record.peak_bytes - results, kernel_bytes(func, args, result)))
        return result


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def off(call: Callable[[], Any], share: float = 0.0) -> list[tuple[str, int, int]]:
    """Return the operations whose rule does not say what they held."""
    call()
    with KernelRecord() as record:
        call()
    assert record.found
    return [one for one in record.found if abs(one[1] - one[2]) > FEW + share * one[1]]


@rules_hold
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, BFLOAT16_PRODUCTS])
class TestProducts:
    def test_matrices_that_blas_cannot_read_are_copied(self, dtype: torch.dtype) -> None:
        left, right, vector = (
            torch.ones(64, 96, dtype=dtype),
            torch.ones(96, 32, dtype=dtype),
            torch.ones(96, dtype=dtype),
        )
        number = torch.ones((), dtype=dtype)
        for call in (
            lambda: left @ right,
            lambda: left.t() @ left,
            lambda: left[:, ::2] @ right[:48],
            lambda: left @ vector[:, None].expand(96, 32),
            lambda: number.expand(64, 64) @ left,
            lambda: left @ vector,
            lambda: torch.addmm(right[0], left, vector[:, None].expand(96, 32)),
            lambda: torch.ones(64, 64, dtype=dtype).addmm_(left[:, ::2], left[:, ::2].t()),
        ):
            assert off(call) == []

    def test_batches_are_copied_matrix_by_matrix(self, dtype: torch.dtype) -> None:
        left, right = torch.ones(4, 48, 96, dtype=dtype), torch.ones(4, 48, 32, dtype=dtype)
        for call in (
            lambda: left.transpose(1, 2) @ right,
            lambda: left[:, :, ::2] @ right,
            lambda: left[:1, :, :48].expand(4, 48, 48) @ right,
            lambda: torch.einsum("bij,bkj->bik", left, left),
        ):
            assert off(call) == []


@rules_hold
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elementwise_operations_cast_their_operands_to_a_common_type(dtype: torch.dtype) -> None:
    some = torch.ones(64, 96, dtype=dtype)
    for other in (
        torch.ones(64, 96, dtype=torch.float64),
        torch.arange(96),
        torch.ones(96, dtype=dtype),
        torch.ones(()),
    ):
        for function in (torch.add, torch.mul, torch.div, torch.gt, torch.maximum):
            assert off(lambda function=function, other=other: function(some, other)) == []


@rules_hold
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_softmax_norms_and_reductions(dtype: torch.dtype) -> None:
    inputs, scale, images = torch.ones(96, 128).to(dtype), torch.ones(128).to(dtype), torch.ones(4, 16, 8, 8).to(dtype)
    statistics = inputs[:, :1].contiguous()
    for call in (
        lambda: torch.softmax(inputs, 0) + torch.log_softmax(inputs, 1),
        lambda: aten._softmax_backward_data(inputs, inputs, 1, dtype),
        lambda: torch.logsumexp(inputs, 1),
        lambda: aten.native_layer_norm(inputs, [128], scale, scale, 1e-5),
        lambda: aten.native_layer_norm_backward(
            inputs, inputs, [128], statistics, statistics, scale, scale, [True] * 3
        ),
        lambda: aten.native_batch_norm(images, None, None, None, None, True, 0.1, 1e-5),
        lambda: (inputs.mean(), inputs.mean(0), inputs.sum(0), inputs.var(1), inputs.amax(1)),
        lambda: (torch.isinf(inputs).any(), torch.isfinite(inputs).all()),
        lambda: (torch.nn.functional.gelu(inputs), aten.gelu_backward(inputs, inputs)),
        lambda: (inputs.cumsum(0), inputs.cumprod(1), inputs.sort(1), inputs.sort(0)),
        lambda: inputs.t().contiguous(),
    ):
        assert off(call) == []


@rules_hold
def test_group_norm_keeps_two_sums_for_each_image_and_channel() -> None:
    images, scale = torch.ones(8, 64, 6, 6, requires_grad=True), torch.ones(64, requires_grad=True)
    assert (
        off(lambda: torch.autograd.grad(torch.nn.functional.group_norm(images, 8, scale).sum(), (images, scale))) == []
    )


@rules_hold
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_embeddings_indices_and_losses_over_classes(dtype: torch.dtype) -> None:
    table, places, scores = torch.ones(500, 64).to(dtype), torch.arange(400) % 300, torch.ones(64, 96).to(dtype)
    labels = torch.arange(64) % 96
    for call in (
        lambda: torch.nn.functional.embedding(places, table),
        lambda: aten.embedding_dense_backward(torch.ones(400, 64, dtype=dtype), places, 500, -1, False),
        lambda: table[places],
        lambda: aten.index_put(table, [places], torch.ones(400, 64, dtype=dtype), True),
        lambda: torch.nn.functional.cross_entropy(scores, labels),
        lambda: scores.clone().scatter_(1, labels[:, None], 0.0),
    ):
        assert off(call) == []


@rules_hold
@pytest.mark.parametrize(
    ("images", "channels", "scores", "side"),
    [
        (100, 1, 4, 28),
        (100, 4, 8, 14),
        (100, 8, 16, 14),
        (10, 3, 20, 16),
        (2, 16, 16, 32),
        (1, 16, 16, 32),
        (10, 12, 16, 12),
    ],
)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=only_avx2), torch.float64])
def test_convolutions_keep_blocked_copies_or_columns(
    images: int, channels: int, scores: int, side: int, dtype: torch.dtype
) -> None:
    inputs = torch.ones(images, channels, side, side, dtype=dtype, requires_grad=True)
    weight = torch.ones(scores, channels, 3, 3, dtype=dtype, requires_grad=True)
    bias = torch.ones(scores, dtype=dtype, requires_grad=True)

    def call(with_images: bool) -> Any:
        found = torch.conv2d(inputs if with_images else inputs.detach(), weight, bias, padding=1)
        return torch.autograd.grad(found.sum(), [inputs, weight, bias] if with_images else [weight, bias])

    assert off(lambda: call(True), 0.001) == []
    assert off(lambda: call(False), 0.001) == []
    assert off(lambda: torch.conv2d(inputs.detach(), weight.detach(), stride=2), 0.1) == []


IMAGES, WEIGHT = torch.ones(2, 4, 8, 8), torch.ones(4, 4, 3, 3)
CONVOLUTION = (IMAGES, WEIGHT, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
PRODUCT = (torch.ones(8, 8), torch.ones(4, 8))
LOSS = (torch.ones(8, 8), [1])


def counted(rules: Workspaces) -> dict[str, int]:
    """Return the bytes of a convolution, a product in two number types and a reduction by some rules."""
    strided = {dtype: (PRODUCT[0].to(dtype)[:, ::2], PRODUCT[1].to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return {
        "convolution": rules(aten.convolution.default, CONVOLUTION, torch.conv2d(IMAGES, WEIGHT, padding=1)),
        **{f"{dtype} product": rules(aten.mm.default, pair, pair[0] @ pair[1]) for dtype, pair in strided.items()},
        "reduction": rules(aten.logsumexp.default, LOSS, torch.logsumexp(*LOSS)),
    }


def test_what_is_known_of_a_release_and_an_instruction_set_is_counted_and_the_rest_is_named() -> None:
    avx2, avx512, sse41 = (Workspaces(f"{RELEASE}.0+cpu", instructions) for instructions in ("AVX2", "AVX-512", VECTORS[0]))
    whole = counted(avx2)
    assert all(whole.values())
    assert avx2.note == ""
    assert counted(avx512) == whole | {"convolution": 0, "torch.bfloat16 product": 0}
    assert avx512.note == (
        "workspaces of convolutions are not counted: not known for AVX-512; "
        "workspaces of matrix products in bfloat16 or float16 are not counted: not known for AVX-512"
    )
    assert counted(sse41) == whole | {"convolution": 0}
    assert "convolutions" in sse41.note


@pytest.mark.parametrize(("release", "instructions"), [("2.11.0+cpu", "AVX2"), ("2.13.0", "SVE256"), ("2.130.1", "AVX2")])
def test_of_another_release_or_architecture_nothing_is_counted_and_that_is_said(release: str, instructions: str) -> None:
    rules = Workspaces(release, instructions)
    assert set(counted(rules).values()) == {0}
    assert rules.note.startswith("workspaces of CPU kernels are not counted: they are known for torch 2.13 on x86")
    assert f"torch {release} with {instructions} kernels" in rules.note


def test_kernels_of_one_tap_that_onednn_computes_are_not_known() -> None:
    one_tap = torch.ones(4, 4, 1, 1)
    arguments = (IMAGES, one_tap, *CONVOLUTION[2:])
    rules = Workspaces(f"{RELEASE}.0", "AVX2")
    assert rules(aten.convolution.default, arguments, torch.conv2d(IMAGES, one_tap)) == 0
    assert "convolutions with kernels of 1" in rules.note
    in_double = (IMAGES.double(), one_tap.double(), *CONVOLUTION[2:])
    rules = Workspaces(f"{RELEASE}.0", "AVX2")
    assert rules(aten.convolution.default, in_double, IMAGES.double()) == kernel_bytes(
        aten.convolution.default, in_double, IMAGES.double()
    )
    assert rules.note == ""
