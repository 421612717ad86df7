"""Tasks whose parameters are measured in random units while an optimiser is trained on them, so that it learns no task's scale by heart.

Lv, Jiang & Li 2017, section 4.1: f(c w) in place of f(w), with a factor c drawn for every coordinate and task.
"""

from __future__ import annotations

from metabench.core.lazy import torch
from metabench.core.pictures import Picture
from metabench.core.types import Batch, Tree
from metabench.learned.tasks import Episode, Part, Tasks

FACTOR = "factor of "
"""Before a parameter's name: the entry of a batch that holds its factors."""


class Scaled(Tasks):
    """Tasks of which those to train on are in random units: factors are log-uniform from exp(-width) to exp(width).

    An episode's factors are entries of all its batches. Tasks to validate and to test are as they are.
    """

    def __init__(self, tasks: Tasks, width: float) -> None:
        self.together, self.stacked, self.batch, self.unit = tasks.together, tasks.stacked, tasks.batch, tasks.unit
        self._tasks, self._width = tasks, width

    def group(self, name: str) -> str:
        """Return the group of a parameter of the tasks."""
        return self._tasks.group(name)

    def begin(self, part: Part, stream: torch.Generator) -> Episode:
        """Return an episode of the tasks, in random units if it is to train on."""
        episode = self._tasks.begin(part, stream)
        if part is not Part.TRAIN:
            return episode
        factors = {name: self._drawn(leaf, stream) for name, leaf in episode.params.items()}
        params = {name: leaf / factors[name] for name, leaf in episode.params.items()}
        given = {f"{FACTOR}{name}": factor for name, factor in factors.items()}
        batches = ({**batch, **given} for batch in episode.batches)
        return Episode(params, batches, {**episode.constants, **given})

    def _drawn(self, leaf: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        uniform = torch.rand(leaf.shape, generator=stream, dtype=torch.float64)
        return (self._width * (2 * uniform - 1)).exp().to(leaf.device, leaf.dtype)

    def losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return the loss of each task at the parameters times their factors, shape [tasks]."""
        return self._tasks.losses(_times_factors(params, batch), batch)

    def judged(self, params: Tree, episode: Episode) -> torch.Tensor:
        """Return the loss by which each task is judged at the parameters times their factors, shape [tasks]."""
        return self._tasks.judged(_times_factors(params, episode.constants), episode)

    def pictures(self, params: Tree, episode: Episode, losses: torch.Tensor) -> dict[str, Picture]:
        """Return pictures of the parameters times their factors."""
        return self._tasks.pictures(_times_factors(params, episode.constants), episode, losses)


def _times_factors(params: Tree, batch: Batch) -> Tree:
    return {
        name: leaf * batch[f"{FACTOR}{name}"] if f"{FACTOR}{name}" in batch else leaf for name, leaf in params.items()
    }
