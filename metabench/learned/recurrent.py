"""An LSTM that is applied to every coordinate by itself: weights shared, state of its own. Hochreiter & Schmidhuber 1997.

It is written in plain operations: `torch.lstm_cell` has no batching rule, and `torch.nn.LSTM` has neither that nor forward mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import OptimiserState, Tree
from metabench.learned.coordinates import joined_wide, parted_wide, zeros_wide


@dataclass(frozen=True)
class Recurrent:
    """Layers of LSTM cells and a linear output, from `inputs` numbers of a coordinate to one.

    Weights: of layer i from 1 `lstm{i}.weight` [4 hidden, in + hidden] and `lstm{i}.bias` [4 hidden], for input, forget and output gates
    and the candidate; `output.weight` [hidden] and `output.bias`.
    Slots: `hidden{i}` and `cell{i}`, with leaves of the parameter's shape followed by `hidden`.
    """

    inputs: int
    layers: int
    hidden: int

    @property
    def numbers_per_coordinate(self) -> int:
        """How many numbers an update with its derivative keeps for a coordinate: gates, their values and the states of every layer."""
        return self.inputs + 12 * self.layers * self.hidden

    def draw(self, stream: torch.Generator) -> Tree:
        """Return weights from U(-1/sqrt(hidden), 1/sqrt(hidden)); the bias of forget gates is raised by 1 (Gers et al. 2000)."""
        bound = 1 / math.sqrt(self.hidden)

        def uniform(*shape: int) -> torch.Tensor:
            return bound * (2 * torch.rand(shape, generator=stream, dtype=torch.float64) - 1)

        weights: Tree = {}
        for i in range(1, self.layers + 1):
            inputs = self.inputs if i == 1 else self.hidden
            weights[f"lstm{i}.weight"] = uniform(4 * self.hidden, inputs + self.hidden)
            bias = uniform(4 * self.hidden)
            bias[self.hidden : 2 * self.hidden] += 1
            weights[f"lstm{i}.bias"] = bias
        return {**weights, "output.weight": uniform(self.hidden), "output.bias": torch.zeros((), dtype=torch.float64)}

    def init(self, params: Tree) -> OptimiserState:
        """Return zero states."""
        return {
            f"{kind}{i}": zeros_wide(params, self.hidden)
            for i in range(1, self.layers + 1)
            for kind in ("hidden", "cell")
        }

    def step(
        self, inputs: torch.Tensor, state: OptimiserState, meta: Tree, like: Tree
    ) -> tuple[torch.Tensor, OptimiserState]:
        """Return the outputs [n] for inputs [inputs, n], and the next slots; `like` has the parameters' names and shapes."""
        after: OptimiserState = {}
        for i in range(1, self.layers + 1):
            hidden, cell = (joined_wide(state[f"{kind}{i}"]) for kind in ("hidden", "cell"))
            bias, weight = meta[f"lstm{i}.bias"], meta[f"lstm{i}.weight"]
            gates = torch.addmm(bias.unsqueeze(1), weight, torch.cat([inputs, hidden]))
            opening, candidate = gates.split([3 * self.hidden, self.hidden])
            into, keep, out = opening.sigmoid().chunk(3)
            cell = torch.addcmul(keep * cell, into, candidate.tanh())
            inputs = out * cell.tanh()
            after |= {f"hidden{i}": parted_wide(inputs, like), f"cell{i}": parted_wide(cell, like)}
        return torch.mv(inputs.T, meta["output.weight"]) + meta["output.bias"], after
