"""A certification problem whose inner update is a learned optimiser, and the formulas of two such updates, implemented independently."""

from __future__ import annotations

from typing import Any

from metabench.certify.tanh_networks import LearningRates
from metabench.core import InnerState, Tree
from metabench.core.lazy import torch
from metabench.core.randomness import generator
from metabench.learned.declared import read_optimiser

OPTIONS = {
    "lstm": "lstm, layers 2, hidden 1, gain 0.7, output 0.3",
    "mlp": "mlp, layers 1, hidden 2, output 0.1, steepness 0.5",
}
"""Learned optimisers with few meta-parameters, for differences are taken along each."""


class LearnedUpdate(LearningRates):
    """The meta-parameters are the weights of a network that makes the update: an LSTM, or an MLP on moving means."""

    name = "learned_update"
    statement = (
        "w <- w + m(l, gradient, state),  f = F = mean (v' tanh(Ux + b) - y)^2, F summed over the steps where it is due"
    )

    def __init__(self, optimiser: str, **settings: Any) -> None:
        super().__init__("sgd", **settings)
        self.optimiser_name = optimiser
        self.chosen = read_optimiser(OPTIONS[optimiser])
        self.optimiser = self.chosen.make()

    def initial_meta(self, params: Tree) -> Tree:
        """Return the weights; biases are moved away from zero, where units of the MLP have their kinks."""
        drawn = self.chosen.draw(generator(self.seed, f"{self.name} meta"))
        return {name: leaf + 0.5 if name.endswith("bias") else leaf for name, leaf in drawn.items()}


def updated(name: str, slopes: Tree, state: InnerState, meta: Tree) -> InnerState:
    """Return the state after one update by the learned optimiser 'lstm' or 'mlp' of `OPTIONS`."""
    params: Tree = {}
    slots: dict[str, Tree] = {slot: {} for slot in state.optimiser}
    for leaf, w in state.params.items():
        before = {slot: leaves[leaf] for slot, leaves in state.optimiser.items() if slot != "step"}
        if name == "lstm":
            change, after = _lstm(slopes[leaf], before, meta)
        else:
            change, after = _mlp(slopes[leaf], w, before, float(state.optimiser["step"]["count"]), meta)
        params[leaf] = w + change
        for slot, kept in after.items():
            slots[slot][leaf] = kept
    if "step" in slots:
        slots["step"] = {"count": state.optimiser["step"]["count"] + 1}
    return InnerState(params, slots)


def _lstm(g: torch.Tensor, before: Tree, meta: Tree) -> tuple[torch.Tensor, Tree]:
    """Return the change and the slots by torch's own cell, whose gates are in another order and whose inputs have weights of their own."""
    signal, after = 0.7 * g.reshape(-1, 1), {}
    for layer in ("1", "2"):
        into, keep, out, candidate = meta[f"lstm{layer}.weight"].chunk(4)
        i, f, o, c = meta[f"lstm{layer}.bias"].chunk(4)
        weight, bias = torch.cat([into, keep, candidate, out]), torch.cat([i, f, c, o])
        old = (before[f"hidden{layer}"].reshape(-1, 1), before[f"cell{layer}"].reshape(-1, 1))
        hidden, cell = torch.lstm_cell(signal, old, weight[:, :1], weight[:, 1:], bias, torch.zeros_like(bias))
        signal = hidden
        after |= {f"hidden{layer}": hidden.reshape(*g.shape, 1), f"cell{layer}": cell.reshape(*g.shape, 1)}
    return 0.3 * (signal[:, 0] * meta["output.weight"] + meta["output.bias"]).reshape(g.shape), after


def _mlp(g: torch.Tensor, w: torch.Tensor, before: Tree, done: float, meta: Tree) -> tuple[torch.Tensor, Tree]:
    """Return the change and the slots, one number of a coordinate after the other."""
    sizes, ratios, first, second = [g, w], [], [], []
    for place, decay in enumerate((0.9, 0.99, 0.999)):
        m = decay * before["first"][..., place] + (1 - decay) * g
        v = decay * before["second"][..., place] + (1 - decay) * g**2
        correction = 1 - decay ** (done + 1)
        sizes.append(m)
        ratios.append((m / correction) / (torch.sqrt(v / correction + 1e-16) + 1e-8))
        first.append(m)
        second.append(v)
    inputs = torch.stack([x / torch.sqrt((x**2).mean() + 1e-5) for x in sizes] + ratios)
    scales = torch.tensor([1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000], dtype=torch.float64)
    constant = meta["mlp1.bias"] + (meta["mlp1.time"] * torch.tanh(done / scales - 1)).sum(1)
    units = torch.clamp(torch.einsum("ui,i...->...u", meta["mlp1.weight"], inputs) + constant, min=0)
    direction, magnitude = (torch.einsum("ou,...u->...o", meta["mlp2.weight"], units) + meta["mlp2.bias"]).unbind(-1)
    return 0.1 * direction * torch.exp(0.5 * magnitude), {
        "first": torch.stack(first, -1),
        "second": torch.stack(second, -1),
    }
