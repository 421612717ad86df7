"""Batch normalisation without state: one rule for every problem whose networks have it.

In training, in both losses, a layer normalises by the statistics of the batch at hand. They are functions of the parameters, and are
differentiated as such; no running averages exist, so that a loss is a function of its arguments.

For evaluation the statistics are computed anew, on training images as the steps see them (rotated, augmented), with the parameters that
are evaluated: of each channel the mean and the variance over all images that are shown, while the layers below normalise by batches as in
training. Test images then do not see each other, and no test image enters a statistic. Wu & Johnson 2021 call this precise BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, cast

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.named import Network

EPSILON = 1e-5
SHOWN = 2000
"""Training images whose statistics evaluation uses, where there are as many."""


class Normalise(Protocol):
    """Normalises a layer's input by statistics of its own choice, then scales and shifts it."""

    def __call__(self, layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor: ...


def by_batch(layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Normalise `hidden`, shape [n, channels, ...], by its own mean and variance of every channel."""
    return torch.nn.functional.batch_norm(hidden, None, None, weight, bias, training=True, eps=EPSILON)


def normalised(params: Tree, layer: str, hidden: torch.Tensor, normalise: Normalise) -> torch.Tensor:
    """Return a layer's output; its parameters are `layer`.weight and `layer`.bias."""
    return normalise(layer, hidden, params[f"{layer}.weight"], params[f"{layer}.bias"])


class NormalisedNetwork(Network, Protocol):
    """A network with batch normalisation: it says so, and can be given other statistics."""

    batch_normalised: bool

    def __call__(self, params: Tree, inputs: torch.Tensor, normalise: Normalise = by_batch) -> torch.Tensor: ...


class _Population:
    """The statistics of every layer over several batches, computed in double precision."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._sums: dict[str, torch.Tensor] = {}

    def record(self, layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Add a batch's values, and normalise them by their own statistics."""
        values = hidden.detach().double().transpose(0, 1).flatten(1)
        sums = torch.stack([values.sum(1), values.square().sum(1)])
        self._sums[layer] = self._sums[layer] + sums if layer in self._sums else sums
        self._count[layer] = self._count.get(layer, 0) + values.shape[1]
        return by_batch(layer, hidden, weight, bias)

    def apply(self, layer: str, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Normalise by what was recorded."""
        mean, square = self._sums[layer] / self._count[layer]
        variance = (square - mean.square()).clamp(min=0)
        return torch.nn.functional.batch_norm(
            hidden, mean.to(hidden), variance.to(hidden), weight, bias, training=False, eps=EPSILON
        )


def for_evaluation(
    network: Network, params: Tree, batches: Iterable[torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from images to class scores that is evaluated, one image at a time as it were.

    batches: training images as steps see them, in batches of the size of theirs; read until `SHOWN` images were seen, and not at all for a
        network without batch normalisation.

    Raises:
        MetabenchError: there is no batch.
    """
    if not getattr(network, "batch_normalised", False):
        return lambda inputs: network(params, inputs)
    chosen, population, seen = cast(NormalisedNetwork, network), _Population(), 0
    with torch.no_grad():
        for batch in batches:
            chosen(params, batch, population.record)
            seen += len(batch)
            if seen >= SHOWN:
                break
    if not seen:
        raise MetabenchError(
            "a network with batch normalisation is evaluated by the statistics of training images, and there are none"
        )
    return lambda inputs: chosen(params, inputs, population.apply)
