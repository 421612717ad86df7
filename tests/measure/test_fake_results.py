"""Results on fake tensors that are made anew: nothing tells them from torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from metabench.measure.predicted.fake_results import FakeResults

aten = torch.ops.aten


def _state(tensor: Any) -> tuple[Any, ...]:
    assert isinstance(tensor, FakeTensor)
    layout = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device, tensor.requires_grad)
    return (*layout, torch._C._dispatch_keys(tensor), vars(tensor))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_result_made_anew_is_like_torchs(device: str) -> None:
    mode = FakeTensorMode()
    with mode:
        given = torch.empty(3, 4, device=device)
        results = FakeResults(mode)
        for function, arguments in ((aten.mul.Tensor, (given, given)), (aten.t.default, (given,))):
            own = function(*arguments)
            results(function, arguments, {})
            made, new, key = results(function, arguments, {})
            assert _state(made) == _state(own)
            assert key is not None
            shares = made.untyped_storage()._cdata == given.untyped_storage()._cdata
            assert new is not None and bool(new) is not shares


def test_what_follows_from_a_result_is_told_apart_by_numbers_and_layouts() -> None:
    mode = FakeTensorMode()
    with mode:
        rows, columns = torch.empty(3, 4), torch.empty(4, 3).t()
        results = FakeResults(mode)
        for function, one, other in (
            (aten.sum.dim_IntList, (rows, [0]), (rows, [1])),
            (aten.mul.Tensor, (rows, 2), (rows, 2.0)),
            (aten.neg.default, (rows,), (columns,)),
        ):
            keys = [results(function, arguments, {}).key for arguments in (one, other, one)]
            assert keys[0] == keys[2] != keys[1]
