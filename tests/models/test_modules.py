"""A module is taken for a function of its parameters where it is one, with all derivatives; elsewhere the part that is not is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from metabench.core import tree
from metabench.core.errors import MetabenchError
from metabench.core.randomness import generator
from metabench.measure.predicted.memory import fake_tensors
from metabench.models.modules import as_function


class Named(nn.Module):
    """A network whose middle is called 'body.middle'."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.body = nn.ModuleDict({"middle": middle})
        self.last = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.body["middle"](self.first(inputs).tanh())
        return self.last(hidden[0] if isinstance(hidden, tuple) else hidden)


class Tied(nn.Module):
    """One matrix, there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.back.weight = self.there.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.back(self.there(inputs).tanh())


class Counting(nn.Module):
    """Counts its calls in a buffer: written to, or replaced."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(4, 4), in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return self.linear(inputs)


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "inputs"), dtype=torch.float64)


def assert_second_derivatives_agree(module: nn.Module, batch: torch.Tensor) -> None:
    """Assert that both modes give the same Hessian product, and one that is not zero."""
    params, function = as_function(module.double())

    def loss(at: tree.Tree) -> torch.Tensor:
        return function(at, batch).square().mean()

    stream = generator(1, "direction")
    direction = tree.tree_map(lambda leaf: torch.randn(leaf.shape, generator=stream, dtype=leaf.dtype), params)
    watched = tree.leaves_for_grad(params)
    first = torch.autograd.grad(loss(watched), list(watched.values()), create_graph=True)
    reverse = torch.autograd.grad(first, list(watched.values()), list(direction.values()))
    _, forward = torch.func.jvp(torch.func.grad(loss), (params,), (direction,))
    for (name, ours), theirs in zip(forward.items(), reverse, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    assert any(bool(leaf.any()) for leaf in reverse)


@pytest.mark.parametrize(
    "middle",
    [
        nn.LayerNorm(4),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.Dropout(0.0),
        nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 4)).eval(),
        nn.GRU(4, 4),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.MultiheadAttention(4, 2),
    ],
    ids=lambda middle: type(middle).__name__,
)
def test_a_function_of_its_parameters_gives_what_the_module_gives_and_has_both_second_derivatives(
    middle: nn.Module,
) -> None:
    if isinstance(middle, nn.MultiheadAttention):
        attention, middle = middle, nn.Identity()
        middle.add_module("attention", attention)
        middle.forward = lambda hidden: attention(hidden, hidden, hidden)  # type: ignore[method-assign]
    batch = inputs(5, 4) if not isinstance(middle, nn.TransformerEncoderLayer) else inputs(3, 5, 4)
    module = Named(middle).double()
    params, function = as_function(module)
    torch.testing.assert_close(function(params, batch), module(batch), rtol=1e-12, atol=1e-13)
    moved = tree.scale(1.5, params)
    assert not torch.allclose(function(moved, batch), function(params, batch))
    assert torch.equal(function(params, batch), function(params, batch))
    assert_second_derivatives_agree(module, batch)


def test_the_parameters_carry_no_graph_and_stand_in_the_modules_order() -> None:
    module = Named(nn.LayerNorm(4))
    params, _ = as_function(module)
    assert list(params) == [name for name, _ in module.named_parameters()]
    assert not any(leaf.requires_grad for leaf in params.values())


def test_a_call_leaves_the_module_as_it_was() -> None:
    module = Named(nn.Tanh()).double()
    before = {name: leaf.detach().clone() for name, leaf in module.named_parameters()}
    params, function = as_function(module)
    function(tree.scale(2.0, params), inputs(5, 4)).sum()
    assert all(torch.equal(leaf, before[name]) for name, leaf in module.named_parameters())


def test_tied_weights_are_one_leaf_whose_gradient_is_of_both_uses() -> None:
    params, function = as_function(Tied().double())
    assert list(params) == ["there.weight"]
    batch, weight = inputs(5, 4), params["there.weight"]
    expected = (batch @ weight.T).tanh() @ weight.T
    torch.testing.assert_close(function(params, batch), expected, rtol=1e-13, atol=1e-14)
    slope = torch.func.grad(lambda at: function(at, batch).sum())(params)["there.weight"]
    by_hand = torch.func.grad(lambda w: ((batch @ w.T).tanh() @ w.T).sum())(weight)
    torch.testing.assert_close(slope, by_hand, rtol=1e-12, atol=1e-13)


def test_frozen_parameters_and_buffers_are_constants() -> None:
    module = Named(nn.Linear(4, 4)).double()
    module.first.requires_grad_(False)
    module.register_buffer("unused", torch.arange(3))
    params, function = as_function(module)
    assert not any(name.startswith(("first", "unused")) for name in params)
    torch.testing.assert_close(function(params, inputs(5, 4)), module(inputs(5, 4)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Dropout(0.5), ("'body.middle' (Dropout)", "p = 0.5", "into the batch")),
        (lambda: nn.AlphaDropout(0.1), ("'body.middle' (AlphaDropout)", "p = 0.1")),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8), ("'body.middle.self_attn' (MultiheadAttention)", "p = 0.1")),
        (lambda: nn.RReLU(), ("'body.middle' (RReLU)", "LeakyReLU")),
        (
            lambda: nn.BatchNorm1d(4),
            ("'body.middle' (BatchNorm1d)", "running statistics", "track_running_stats=False"),
        ),
        (lambda: nn.BatchNorm1d(4).eval(), ("'body.middle' (BatchNorm1d)", "LayerNorm")),
        (lambda: nn.InstanceNorm1d(4, track_running_stats=True), ("'body.middle' (InstanceNorm1d)", "GroupNorm")),
        (lambda: nn.LazyLinear(4), ("'body.middle' (LazyLinear)", "call the module once")),
        (lambda: nn.LSTM(4, 4), ("'body.middle' (LSTM)", "LSTMCell")),
        (lambda: nn.GRU(4, 4, num_layers=2, dropout=0.2), ("'body.middle' (GRU)", "p = 0.2")),
    ],
)
def test_a_part_that_is_no_function_is_named_with_what_to_use_instead(
    make: Callable[[], nn.Module], words: tuple[str, ...]
) -> None:
    with pytest.raises(MetabenchError) as caught:
        as_function(Named(make()))
    for word in words:
        assert word in str(caught.value)


def test_a_module_that_is_itself_the_part_is_named_by_its_kind() -> None:
    with pytest.raises(MetabenchError, match="a BatchNorm1d keeps running statistics"):
        as_function(nn.BatchNorm1d(4))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_a_call_changes_is_named(in_place: bool) -> None:
    params, function = as_function(Named(Counting(in_place)))
    with pytest.raises(MetabenchError, match=r"a call changes 'body\.middle\.calls'"):
        function(params, inputs(5, 4).float())


def test_spectral_normalisation_is_refused_where_it_iterates() -> None:
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    params, function = as_function(module)
    with pytest.raises(MetabenchError, match="a call changes 'parametrizations"):
        function(params, inputs(5, 4).float())
    module.eval()
    params, function = as_function(module)
    assert function(params, inputs(5, 4).float()).shape == (5, 4)


def test_a_module_with_nothing_to_learn_is_refused() -> None:
    with pytest.raises(MetabenchError, match="a Tanh, has no parameter that requires a gradient"):
        as_function(nn.Tanh())


def test_it_is_placed_without_the_modules_own_to_which_fails_without_memory() -> None:
    module = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    module.register_buffer("scale", torch.ones(()))
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    params, function = as_function(module, torch.device("cpu"), torch.float64)
    assert {leaf.dtype for leaf in params.values()} == {torch.float64}
    assert {leaf.dtype for leaf in module.parameters()} == {torch.float32}
    batch = inputs(3, 4)
    torch.testing.assert_close(function(params, batch), module.double()(batch))
    with fake_tensors():
        params, function = as_function(nn.Linear(4, 2), torch.device("cpu"), torch.float64)
        assert function(params, torch.empty(3, 4, dtype=torch.float64)).shape == (3, 2)
