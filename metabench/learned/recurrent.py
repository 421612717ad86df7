"""An LSTM that is applied to every coordinate by itself: weights shared, state of its own. Hochreiter & Schmidhuber 1997.

It is written in plain operations: `torch.lstm_cell` has no batching rule, and `torch.nn.LSTM` has neither that nor forward mode.
"""

from __future__ import annotations

from dataclasses import dataclass

from metabench.core.lazy import torch
from metabench.core.types import OptimiserState, Tree
from metabench.learned.coordinates import joined, parted


@dataclass(frozen=True)
class Recurrent:
    """Layers of LSTM cells and a linear output, from `inputs` numbers of a coordinate to one.

    Weights: of layer i from 1 `lstm{i}.input` [in, 4 hidden], `lstm{i}.recurrent` [hidden, 4 hidden] and `lstm{i}.bias` [4 hidden], for
    input, forget and output gates and the candidate; `output.weight` [hidden] and `output.bias`.
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
        bound = self.hidden**-0.5

        def uniform(*shape: int) -> torch.Tensor:
            return bound * (2 * torch.rand(shape, generator=stream, dtype=torch.float64) - 1)

        weights: Tree = {}
        for i in range(1, self.layers + 1):
            weights[f"lstm{i}.input"] = uniform(self.inputs if i == 1 else self.hidden, 4 * self.hidden)
            weights[f"lstm{i}.recurrent"] = uniform(self.hidden, 4 * self.hidden)
            bias = uniform(4 * self.hidden)
            bias[self.hidden : 2 * self.hidden] += 1
            weights[f"lstm{i}.bias"] = bias
        return {**weights, "output.weight": uniform(self.hidden), "output.bias": torch.zeros((), dtype=torch.float64)}

    def init(self, params: Tree) -> OptimiserState:
        """Return zero states."""
        return {
            f"{kind}{i}": {name: leaf.new_zeros((*leaf.shape, self.hidden)) for name, leaf in params.items()}
            for i in range(1, self.layers + 1)
            for kind in ("hidden", "cell")
        }

    def step(
        self, inputs: torch.Tensor, state: OptimiserState, meta: Tree, like: Tree
    ) -> tuple[torch.Tensor, OptimiserState]:
        """Return the outputs [n] for inputs [n, inputs], and the next slots; `like` has the parameters' names and shapes."""
        after: OptimiserState = {}
        # The candidate is tanh(x) = 2 sigmoid(2x) - 1: one sigmoid of a contiguous tensor takes half the time.
        doubled = torch.repeat_interleave(inputs.new_tensor([1, 1, 1, 2]), self.hidden)
        for i in range(1, self.layers + 1):
            hidden, cell = (joined(state[f"{kind}{i}"], self.hidden) for kind in ("hidden", "cell"))
            weights = torch.cat([meta[f"lstm{i}.input"], meta[f"lstm{i}.recurrent"]]) * doubled
            gates = torch.addmm(meta[f"lstm{i}.bias"] * doubled, torch.cat([inputs, hidden], dim=1), weights)
            into, keep, out, candidate = gates.sigmoid().chunk(4, dim=1)
            cell = torch.addcmul(keep * cell - into, into, candidate, value=2)
            inputs = out * cell.tanh()
            after |= {f"hidden{i}": parted(inputs, like), f"cell{i}": parted(cell, like)}
        return torch.mv(inputs, meta["output.weight"]) + meta["output.bias"], after
