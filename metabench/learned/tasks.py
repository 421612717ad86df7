"""Families of tasks on which optimisers are learned and judged: what each is made of, without a word on how it is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from metabench.core.lazy import torch
from metabench.core.pictures import Picture
from metabench.core.types import Batch, Tree


class Part(str, Enum):
    """What a task is drawn for. Tasks of different parts share neither random numbers nor, where there are data, examples."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Episode:
    """A task, or several at once: initial parameters, and batches without end.

    Batch k drives inner step k, from w_k to w_{k+1}; the outer loss due at w_{k+1} is that of batch k + 1. `constants` is what
    `Tasks.judged` needs besides.
    """

    params: Tree
    batches: Iterator[Batch]
    constants: Batch


class Tasks(ABC):
    """A family of tasks. It holds data and constants and never changes after it was made.

    Attributes:
        together: how many tasks an episode holds. Where `stacked`, each parameter, and each tensor of a batch, has a first dimension of
            tasks; otherwise an episode is one task.
        stacked: whether it does.
        batch: examples in a batch; 0 where there are no batches.
        unit: of the loss, as 'nat'.
    """

    together: int = 1
    stacked: bool = False
    batch: int = 0
    unit: str = ""

    def group(self, name: str) -> str:
        """Return the group of a parameter, for problems in which each group may have an optimiser of its own; '' if there is one group."""
        return ""

    @abstractmethod
    def begin(self, part: Part, stream: torch.Generator) -> Episode:
        """Return an episode of new tasks of a part, a function of the stream alone."""

    @abstractmethod
    def losses(self, params: Tree, batch: Batch) -> torch.Tensor:
        """Return the loss of each task on a batch, shape [tasks]."""

    def judged(self, params: Tree, episode: Episode) -> torch.Tensor:
        """Return the loss by which each task is judged after a step, shape [tasks].

        Where tasks have examples, on examples that no step saw; by default on the next batch of the episode, which is consumed.
        """
        return self.losses(params, next(episode.batches))

    def pictures(self, params: Tree, episode: Episode, losses: torch.Tensor) -> dict[str, Picture]:
        """Return pictures to look at, by name, of the parameters at the end of a test; `losses` are theirs, shape [tasks]."""
        return {}
