"""Few-shot tasks drawn from a domain: N classes, K labelled images of each to learn from, and others of them to be tested on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.core.randomness import stream_seed
from metabench.data.few_shot import Domain

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """How large a task is: classes, labelled images per class (support), and images per class to be tested on (query)."""

    ways: int
    shots: int
    queries: int

    @property
    def per_class(self) -> int:
        return self.shots + self.queries


@dataclass(frozen=True, eq=False)
class Episode:
    """A task: the numbers of its classes, shape [ways], and of images, `support` [ways, shots] and `query` [ways, queries]."""

    classes: Indices
    support: Indices
    query: Indices


class Episodes:
    """The tasks of one domain, without end: task i of a seed is the same whatever was drawn before, on every machine.

    All images of a task are of this domain. Classes and images of a task are drawn without replacement, every class with `per_class`
    images or more with the same probability; smaller classes are left out. `purpose` separates streams: training from test tasks.

    Raises:
        MetabenchError: fewer than `ways` classes have enough images; the message says how many do.
    """

    def __init__(self, name: str, domain: Domain, shape: Shape, seed: int, purpose: str) -> None:
        self.shape, self._seed, self._purpose = shape, seed, f"{purpose} {name}"
        counts = np.bincount(domain.targets, minlength=len(domain.classes))
        self._classes = np.flatnonzero(counts >= shape.per_class)
        if len(self._classes) < shape.ways:
            raise MetabenchError(
                f"domain '{name}': a {shape.ways}-way {shape.shots}-shot task with {shape.queries} queries per class needs "
                f"{shape.ways} classes of {shape.per_class} images, and {len(self._classes)} of its {len(counts)} classes have "
                f"that many; the largest has {counts.max(initial=0)}"
            )
        # Row c holds the images of class c; what is behind them is never drawn.
        self._counts = counts[self._classes]
        order = np.argsort(domain.targets, kind="stable")
        starts = (np.cumsum(counts) - counts)[self._classes]
        places = np.arange(self._counts.max())
        self._images = order[np.minimum(starts[:, None] + places, len(order) - 1)]
        self._behind = places >= self._counts[:, None]

    def __getitem__(self, number: int) -> Episode:
        """Return task `number`, 0 or more. Only PCG64's raw stream is used: numpy promises to keep it."""
        ways, width = self.shape.ways, self._images.shape[1]
        stream = np.random.PCG64(stream_seed(self._seed, f"{self._purpose} {number}"))
        chosen = np.argsort(stream.random_raw(len(self._classes)), kind="stable")[:ways]
        keys = stream.random_raw(ways * width).reshape(ways, width)
        keys[self._behind[chosen]] = np.iinfo(np.uint64).max
        places = np.argsort(keys, axis=1, kind="stable")[:, : self.shape.per_class]
        drawn = np.take_along_axis(self._images[chosen], places, axis=1).astype(np.int64)
        return Episode(
            self._classes[chosen].astype(np.int64), drawn[:, : self.shape.shots], drawn[:, self.shape.shots :]
        )
