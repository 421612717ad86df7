"""An exception becomes a status and one line, with the operation or the place named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from metabench.core.errors import Diverged, MetabenchError, OutOfMemory, TimeLimit, Unsupported
from metabench.measure.outcome import MESSAGE_LENGTH, is_allocation_failure, outcome
from metabench.results.schema import STATUSES


def raised(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemory("needs 7 bytes"), ("oom", "needs 7 bytes")),
        (MemoryError(), ("oom", "MemoryError")),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            ("oom", "CUDA out of memory. Tried"),
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), ("oom", "CUDA error")),
        (Diverged("the loss is nan"), ("diverged", "the loss is nan")),
        (FloatingPointError("overflow"), ("diverged", "overflow")),
        (TimeLimit("passed the time limit of 3 s"), ("timeout", "passed the time limit of 3 s")),
        (Unsupported("needs a scalar loss"), ("unsupported", "needs a scalar loss")),
        (MetabenchError("unknown size 'xl'"), ("error", "MetabenchError: unknown size 'xl'")),
        (KeyError("weights"), ("error", "KeyError: 'weights'")),
        (NotImplementedError(), ("error", "NotImplementedError")),
        (KeyboardInterrupt(), ("error", "KeyboardInterrupt")),
    ],
)
def test_each_kind_of_exception_has_its_status(error: BaseException, expected: tuple[str, str]) -> None:
    status, message = outcome(error)
    assert status == expected[0]
    assert message.startswith(expected[1])
    assert status in STATUSES


def test_the_cpu_allocators_refusal_is_out_of_memory() -> None:
    error = raised(lambda: torch.empty(2**52))
    assert is_allocation_failure(error)
    assert outcome(error)[0] == "oom"
    assert not is_allocation_failure(RuntimeError("shapes do not match"))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 2

    @staticmethod
    def backward(ctx: Any, ahead: torch.Tensor) -> torch.Tensor:
        return ahead * 2


def twice_through_flash_attention() -> None:
    inputs = torch.ones(1, 2, 8, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        loss = F.scaled_dot_product_attention(inputs, inputs, inputs).sum()
    (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
    torch.autograd.grad(slope.sum(), inputs)


def forward_over(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
    inputs = torch.ones(3, 2, 4)
    return lambda: torch.func.jvp(function, (inputs,), (inputs,))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            twice_through_flash_attention,
            "the derivative of 'aten::_scaled_dot_product_flash_attention_for_cpu_backward' is not implemented",
        ),
        (forward_over(lambda inputs: torch.cdist(inputs, inputs)), "'_cdist_forward' has no forward-mode derivative"),
        (
            forward_over(lambda inputs: torch.nn.LSTM(4, 4)(inputs)[0]),
            "'mkldnn_rnn_layer' has no forward-mode derivative",
        ),
        (forward_over(Doubled.apply), "a custom autograd.Function does not work under torch.func"),
    ],
    ids=["double backward", "forward mode", "recurrent layer", "custom function"],
)
def test_an_operation_that_lacks_a_derivative_is_unsupported_by_name(call: Callable[[], Any], expected: str) -> None:
    assert outcome(raised(call)) == ("unsupported", expected)


def test_an_exception_raised_from_another_takes_its_status() -> None:
    def call() -> None:
        try:
            raise MemoryError("no room")
        except MemoryError as error:
            raise RuntimeError("compiling failed") from error

    assert outcome(raised(call)) == ("oom", "no room")


def test_an_error_says_where_in_one_line() -> None:
    def call() -> None:
        raise ValueError("two\nlines")

    status, message = outcome(raised(call))
    line = call.__code__.co_firstlineno + 1
    assert (status, message) == ("error", f"ValueError: two lines (tests/measure/test_classify.py:{line})")


@pytest.mark.parametrize("call", [lambda: torch.nn.Linear(3, 2)(torch.ones(4)), lambda: json.loads("{")])
def test_the_place_is_that_of_the_own_code_not_of_a_library(call: Callable[[], Any]) -> None:
    assert "(tests/measure/test_classify.py:" in outcome(raised(call))[1]


def test_a_long_message_is_cut_and_keeps_its_place() -> None:
    def call() -> None:
        raise ValueError("long " * 300)

    message = outcome(raised(call))[1]
    assert len(message) == MESSAGE_LENGTH
    assert "... (tests/measure/test_classify.py:" in message
    assert len(outcome(Unsupported("x" * 1000))[1]) == MESSAGE_LENGTH
