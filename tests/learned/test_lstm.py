"""The LSTM optimiser: the cell of torch, a state for every coordinate, and an input whose derivatives are finite everywhere."""

from __future__ import annotations

import pytest
import torch

from metabench.core.types import Tree
from metabench.learned.declared import read_optimiser
from metabench.learned.optimisers.lstm import log_and_sign


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> Tree:
    stream = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(shape, generator=stream, dtype=torch.float64) for i, shape in enumerate(shapes)}


def test_two_steps_are_those_of_cells_of_torch() -> None:
    chosen = read_optimiser("lstm, hidden 3, gain 2.0, output 0.5")
    meta, optimiser = chosen.draw(torch.Generator().manual_seed(1)), chosen.make()
    params, gradients = drawn((2, 3), (4,)), [drawn((2, 3), (4,), seed=seed) for seed in (1, 2)]
    cells = [torch.nn.LSTMCell(size, 3, dtype=torch.float64) for size in (1, 3)]
    for i, cell in enumerate(cells, start=1):
        # In torch the candidate is the third of the gates, and there are two biases.
        order = torch.arange(12).view(4, 3)[[0, 1, 3, 2]].flatten()
        weights = meta[f"lstm{i}.weight"][order]
        cell.weight_ih.data, cell.weight_hh.data = weights[:, :-3], weights[:, -3:]
        cell.bias_ih.data, cell.bias_hh.data = meta[f"lstm{i}.bias"][order], torch.zeros(12, dtype=torch.float64)
    expected = torch.cat([leaf.flatten() for leaf in params.values()])
    states: list[tuple[torch.Tensor, torch.Tensor] | None] = [None, None]
    state = optimiser.init(params)
    for gradient in gradients:
        params, state = optimiser.update(gradient, params, state, meta)
        signal = 2 * torch.cat([leaf.flatten() for leaf in gradient.values()])[:, None]
        for i, cell in enumerate(cells):
            states[i] = cell(signal, states[i])
            signal = states[i][0]
        expected = expected + 0.5 * (signal @ meta["output.weight"] + meta["output.bias"])
    assert list(params) == ["w0", "w1"]
    torch.testing.assert_close(torch.cat([leaf.flatten() for leaf in params.values()]), expected)
    assert state["cell2"]["w0"].shape == (2, 3, 3)


@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30, 1e30])
def test_the_logarithmic_input_has_finite_derivatives_of_both_orders(value: float) -> None:
    at = torch.tensor([[value]], requires_grad=True)
    features = log_and_sign(at, 10)
    (slope,) = torch.autograd.grad((features * torch.tensor([[1.0], [2.0]])).sum(), at, create_graph=True)
    (bend,) = torch.autograd.grad(slope, at) if slope.requires_grad else (slope,)
    assert features.isfinite().all() and slope.isfinite().all() and bend.isfinite().all()
    assert log_and_sign(torch.tensor([[value]]), 10)[1, 0].sign() == torch.tensor(value).sign()
