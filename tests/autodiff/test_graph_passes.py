"""Rewrites, orders and memory used again leave a flat graph's values as they are, and never need more memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_functions import COLUMNS, ROWS, random_function
from torch.fx.experimental.proxy_tensor import make_fx

from metabench.autodiff.traced.liveness import order_for_memory, peak_bytes
from metabench.autodiff.traced.memory_reuse import reuse_memory
from metabench.autodiff.traced.simplify import (
    add_into_products,
    drop_copies,
    merge_equal,
    simplify,
    writes,
)
from metabench.core.randomness import generator

SEEDS = range(7)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "values"), dtype=torch.float64)


def traced(function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    return make_fx(torch.func.functionalize(function, remove="mutations"), tracing_mode="fake")(*inputs)


def slopes_of(seed: int) -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """Return a random function with its gradient, as a trace of a backward pass has them, and inputs."""
    made = random_function(seed, length=7)

    def function(*matrices: torch.Tensor) -> list[torch.Tensor]:
        outputs, pull = torch.func.vjp(made, *matrices)
        return [*outputs, *pull([one.cos() for one in outputs])]

    return function, [drawn(ROWS, COLUMNS, seed=i) for i in range(3)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rewrite", [drop_copies, merge_equal, add_into_products, simplify])
def test_every_rewrite_leaves_the_values_as_they_are(rewrite: Callable[[Any], None], seed: int) -> None:
    function, inputs = slopes_of(seed)
    module = traced(function, *inputs)
    assert not writes(module.graph)
    rewrite(module.graph)
    module.graph.lint()
    module.recompile()
    for found, expected in zip(module(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def calls(graph: Any, *names: str) -> int:
    return sum(node.op == "call_function" and node.target.__name__ in names for node in graph.nodes)


def test_equal_products_are_taken_once_and_sums_are_taken_into_them() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
        return [(x @ w).sin(), x.sin() + (x.clone() @ w).sin() + x @ w.t()]

    module = traced(function, drawn(4, 4), drawn(4, 4, seed=1))
    simplify(module.graph)
    assert calls(module.graph, "clone.default") == 0
    assert calls(module.graph, "mm.default") == calls(module.graph, "addmm.default") == 1


def test_numbers_that_are_equal_in_python_alone_are_not_merged() -> None:
    def function(x: torch.Tensor) -> list[torch.Tensor]:
        zero, negative = torch.full((2,), 0.0), torch.full((2,), -0.0)
        return [x * 1, x / zero[0], x / negative[0], torch.full((2,), 1), torch.full((2,), 1.0), torch.full((2,), True)]

    x = drawn(3)
    module = traced(function, x)
    simplify(module.graph)
    module.recompile()
    for found, expected in zip(module(x), function(x), strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_two_draws_of_random_numbers_are_not_one() -> None:
    module = traced(lambda x: [torch.rand_like(x), torch.rand_like(x)], drawn(3))
    simplify(module.graph)
    module.recompile()
    assert not torch.equal(*module(drawn(3)))


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_that_is_used_again_changes_no_bit(seed: int) -> None:
    function, inputs = slopes_of(seed)
    module = traced(function, *inputs)
    simplify(module.graph)
    module.recompile()
    expected = module(*inputs)
    before = [leaf.clone() for leaf in inputs]
    again = torch.fx.GraphModule(module, copy.deepcopy(module.graph))
    reuse_memory(again.graph)
    again.recompile()
    assert all(map(torch.equal, again(*inputs), expected))
    assert all(map(torch.equal, inputs, before))
    assert peak_bytes(again.graph) <= peak_bytes(module.graph)


def test_memory_is_used_again_where_an_operand_is_read_for_the_last_time() -> None:
    module = traced(lambda x: (x.sin() * 2).exp() + 1, drawn(1000))
    whole = peak_bytes(module.graph)
    reuse_memory(module.graph)
    assert (whole, peak_bytes(module.graph)) == (16_000, 8_000)


@pytest.mark.parametrize("seed", SEEDS)
def test_ordering_for_memory_never_raises_the_peak_and_keeps_the_values(seed: int) -> None:
    function, inputs = slopes_of(seed)
    module = traced(function, *inputs)
    simplify(module.graph)
    module.recompile()
    expected, before = module(*inputs), peak_bytes(module.graph)
    order_for_memory(module.graph)
    module.graph.lint()
    module.recompile()
    assert peak_bytes(module.graph) <= before
    assert all(map(torch.equal, module(*inputs), expected))


def test_ordering_for_memory_takes_what_frees_before_what_allocates() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        made = [x * i for i in range(2, 8)]
        return torch.stack([one.sum() for one in made])

    module = traced(function, drawn(1000))
    before = peak_bytes(module.graph)
    order_for_memory(module.graph)
    assert before >= 6 * 8000
    assert peak_bytes(module.graph) < 8000 + 200
