"""Few-shot tasks on images of several domains, as batches: drawn by number, so that a shard can begin anywhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metabench.core.errors import MetabenchError, unknown
from metabench.core.lazy import torch
from metabench.core.randomness import stream_seed
from metabench.core.types import Batch
from metabench.data.episodes import Episode, Episodes, Shape
from metabench.data.few_shot import Domain, FewShot
from metabench.models.choice_blocks import image_batch

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
"""Of the classes: none is in two of them."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Tasks of one domain side by side.

    Attributes:
        shape: of a task.
        support: images to learn from, shape [tasks, ways * shots, channels, side, side], by class.
        query: images to be told apart, shape [tasks, ways * queries, channels, side, side], by class.
    """

    shape: Shape
    support: torch.Tensor
    query: torch.Tensor

    def nearest(self) -> torch.Tensor:
        """Return how many queries have a support image of their class as the nearest by pixels, shape [tasks]."""
        nearest = torch.cdist(self.query.flatten(2), self.support.flatten(2)).argmin(2) // self.shape.shots
        return (nearest == torch.arange(nearest.shape[1], device=nearest.device) // self.shape.queries).sum(1)


class ImageTasks:
    """The tasks of a few-shot data set for one seed.

    Task `number` of a part is of domain `number` modulo the number of its domains. Images have values from -1 to 1. `support_targets`,
    shape [ways * shots], and `query_targets`, [ways * queries], are the classes of every task.

    Args:
        data: domains of each part.
        shape: of every task.
        seed: decides the tasks.
        device: of the batches.
        dtype: of the images.
    """

    def __init__(self, data: FewShot, shape: Shape, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.shape = shape
        self._domains = {TRAIN: data.train, VALIDATION: data.validation, TEST: data.test}
        self._seed, self._device, self._dtype = seed, device, dtype
        self.support_targets = self._targets(shape.shots)
        self.query_targets = self._targets(shape.queries)
        self._streams: dict[tuple[str, str], Episodes] = {}
        self._held: dict[tuple[str, str], torch.Tensor] = {}
        for name in data.train:
            self._stream(TRAIN, name)
            # Now: what is scaled where shapes alone count would be kept without values.
            self._hold(TRAIN, name)

    def _targets(self, count: int) -> torch.Tensor:
        return torch.arange(self.shape.ways, device=self._device).repeat_interleave(count)

    @functools.cached_property
    def image(self) -> tuple[int, ...]:
        """The shape of an image, [channels, side, side]."""
        return tuple(next(iter(self._domains[TRAIN].values())).images.shape[1:])

    def domains(self, part: str) -> tuple[str, ...]:
        """Return the names of a part's domains.

        Raises:
            MetabenchError: the part is unknown, or has none.
        """
        if part not in self._domains:
            raise unknown("part of the classes", part, PARTS)
        if not self._domains[part]:
            raise MetabenchError(f"the data set has no domains for {part}")
        return tuple(self._domains[part])

    def training(self, number: int) -> tuple[Batch, Batch]:
        """Return the support and the queries of a training task."""
        names = self.domains(TRAIN)
        name = names[number % len(names)]
        task = self._stream(TRAIN, name)[number // len(names)]
        support, query = (self._images(TRAIN, name, rows) for rows in (task.support.ravel(), task.query.ravel()))
        return image_batch(support, self.support_targets), image_batch(query, self.query_targets)

    def stacks(self, part: str, count: int, *, first: int = 0, largest: int = 32) -> Iterator[tuple[list[int], Stack]]:
        """Yield `count` tasks of a part from number `first` on: their numbers, and at most `largest` tasks of one domain at a time."""
        names = self.domains(part)
        for place, name in enumerate(names):
            numbers = [number for number in range(first, first + count) if number % len(names) == place]
            for start in range(0, len(numbers), largest):
                some = numbers[start : start + largest]
                yield some, self._stack(part, name, [self._stream(part, name)[number // len(names)] for number in some])

    def classes(self, part: str) -> int:
        """Return how many classes the domains of a part have together."""
        return sum(len(self._domain(part, name).classes) for name in self.domains(part))

    def jointly(self, part: str, number: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `count` images of a part drawn by number, of all domains alike, and their classes among all classes of the part."""
        names = self.domains(part)
        sizes = [self._domain(part, name).images.shape[0] for name in names]
        firsts = np.cumsum([0, *(len(self._domain(part, name).classes) for name in names)])
        raw = np.random.PCG64(stream_seed(self._seed, f"joint {part} {number}")).random_raw(2 * count)
        images, targets = [], []
        for domain, place in zip(raw[:count] % len(names), raw[count:], strict=True):
            row = int(place % sizes[domain])
            images.append(self._images(part, names[domain], np.array([row])))
            targets.append(int(firsts[domain] + self._domain(part, names[domain]).targets[row]))
        return torch.cat(images), torch.tensor(targets, device=self._device)

    def _stack(self, part: str, name: str, tasks: Sequence[Episode]) -> Stack:
        def images(rows: Sequence[np.ndarray]) -> torch.Tensor:
            stacked = np.stack([one.ravel() for one in rows])
            return self._images(part, name, stacked.ravel()).unflatten(0, stacked.shape)

        support, query = images([task.support for task in tasks]), images([task.query for task in tasks])
        return Stack(self.shape, support, query)

    def _stream(self, part: str, name: str) -> Episodes:
        key = (part, name)
        if key not in self._streams:
            self._streams[key] = Episodes(name, self._domain(part, name), self.shape, self._seed, f"{part} tasks")
        return self._streams[key]

    def _domain(self, part: str, name: str) -> Domain:
        domains: Mapping[str, Domain] = self._domains[part]
        return domains[name]

    def _images(self, part: str, name: str, rows: np.ndarray) -> torch.Tensor:
        self._hold(part, name)
        if (part, name) not in self._held:
            return self._scaled(self._domain(part, name).images[rows])
        return self._held[part, name][torch.as_tensor(rows, device=self._device)]

    def _hold(self, part: str, name: str) -> None:
        """Scale the images of a domain once, if they are in memory."""
        images = self._domain(part, name).images
        if isinstance(images, np.ndarray) and (part, name) not in self._held:
            self._held[part, name] = self._scaled(images)

    def _scaled(self, images: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(images).to(self._device, self._dtype) / 127.5 - 1
