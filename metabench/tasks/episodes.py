"""Labelled tasks of `few_shot_classification`, and what kernels and nearest neighbours make of them: no network, no training.

`draw` returns the tasks, `accuracies` those of Meta Neural Kernels and of what they are compared with, on the same episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.data.contract import Classification
from metabench.data.episodes import Episode, Episodes, Shape
from metabench.data.few_shot import Domain, FewShot
from metabench.data.unseen import drawn, parts
from metabench.kernels.few_shot import Grams, Tasks, meta_neural_kernel
from metabench.models.discriminants import Discriminants, unit
from metabench.models.embeddings import Embedding, TrainedEmbedding

Floats = npt.NDArray[np.float64]
ONE_HOT, EMBEDDINGS, NETWORK = "one_hot", "embeddings", "network"
LABELS = (ONE_HOT, EMBEDDINGS, NETWORK)
ONE, ALL = "one", "all"
ORDERS = (ONE, ALL)


@dataclass(frozen=True)
class Study:
    """Tasks to train on and tasks of the test, in float64 on the CPU.

    Attributes:
        way: classes of a task; its points are ordered by class.
        train: over the training images that tasks use, of norm sqrt(dimensions), shape [u, dimensions].
        test: likewise; the labels of queries are those of their classes' supports.
        embedded: the embeddings of the test's images, shape [v, embedding].
        image: channels, height and width.
    """

    way: int
    train: Tasks
    test: Tasks
    embedded: torch.Tensor
    image: tuple[int, int, int]

    def first(self, tests: int) -> Study:
        """Return the same with the first tasks of the test alone."""
        test = self.test
        parts = (test.support, test.queries, test.support_labels, test.query_labels)
        return replace(self, test=Tasks(test.images, *(part[:tests] for part in parts)))

    def predicted(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the classes at the queries of the test, shape [tests, m], for outputs [tests, m, outputs].

        They are those whose labels have the largest product with the outputs. All labels have one length, so these are the nearest, too,
        and it does not matter that a short inner run goes only part of the way to them.
        """
        shots = self.test.support.shape[1] // self.way
        return (outputs @ self.test.support_labels[:, ::shots].mT).argmax(-1)

    def nearest(self, points: torch.Tensor) -> torch.Tensor:
        """Return the classes of the nearest support images, shape [tests, m], for points [v, dimensions] that stand for images."""
        shots = self.test.support.shape[1] // self.way
        return torch.cdist(points[self.test.queries], points[self.test.support]).argmin(-1) // shots

    def accuracy(self, predicted: torch.Tensor) -> torch.Tensor:
        """Return the accuracy of predicted classes [tests, m] on each task (%), shape [tests]."""
        right = torch.arange(self.way).repeat_interleave(predicted.shape[1] // self.way)
        return 100 * (predicted == right).double().mean(1)


def draw(
    data: FewShot | Classification,
    shape: Shape,
    *,
    seed: int,
    characters: int = 20,
    tasks: int = 20,
    tests: int = 600,
    labels: str = EMBEDDINGS,
    orders: str = ONE,
    train_on: str = "",
    test_on: str = "",
    folder: Path | None = None,
    simulated: bool = False,
) -> Study:
    """Return the tasks of a seed.

    Args:
        data: domains, or images of classes, which are halved.
        shape: of tasks.
        seed: decides characters and tasks.
        characters: classes to train on; 0: all.
        tasks: trained on.
        tests: of the test domains in turn; each has classes of one domain.
        labels: one of `LABELS`.
        orders: 'one', or 'all': each training task is there once per order of its classes.
        train_on: as in `parts`.
        test_on: likewise.
        folder: where a trained embedding is kept; None: nowhere.
        simulated: whether shapes alone count: an embedding is then not trained.

    Raises:
        MetabenchError: classes or images are too few; a domain is unknown; or embeddings have no order.
    """
    if 0 < characters < shape.ways:
        raise MetabenchError(
            f"{characters} characters to train on make no {shape.ways}-way task: ask for {shape.ways} or more, or for fewer ways"
        )
    if orders == ALL and labels != ONE_HOT:
        raise MetabenchError(f"orders '{ALL}' with labels '{labels}': embeddings have no order; ask for '{ONE_HOT}'")
    train_domains, test_domains = parts(data, train_on, test_on, seed)
    pool = drawn(train_domains, characters, seed)
    embedding = _embedding(pool, labels, seed, folder, simulated)
    channels, height, width = pool.images.shape[1:]
    ours = _Table.of({"training characters": pool}, shape, seed, "training tasks", tasks)
    theirs = _Table.of(test_domains, shape, seed, "test tasks", tests)
    if labels == ONE_HOT:
        train, test = (_one_hot(one, shape) for one in (ours, theirs))
        train = _all_orders(train, shape) if orders == ALL else train
    else:
        means = embedding.of_classes(_flat(pool.images), pool.targets)
        chosen = np.stack([task.classes for task in ours.episodes])
        train, test = (_embedded(one, shape, embedding) for one in (ours, theirs))
        train = replace(train, query_labels=_each(torch.as_tensor(means[chosen]), shape.queries))
    return Study(shape.ways, train, test, torch.as_tensor(embedding(theirs.pixels)), (channels, height, width))


def _embedding(pool: Domain, labels: str, seed: int, folder: Path | None, simulated: bool) -> Embedding:
    """Return what embeds images [n, dimensions], fitted to the characters trained on."""
    images = np.asarray(pool.images[np.arange(pool.images.shape[0])])
    if labels != NETWORK:
        return Discriminants.fit(_flat(images), pool.targets)
    return TrainedEmbedding.fit(images, pool.targets, seed, folder, steps=0 if simulated else None)


def accuracies(study: Study, given: Grams, tau: float, time: float, ridge: float = 0.0) -> Mapping[str, torch.Tensor]:
    """Return the accuracy per test task (%), shape [tests], of Meta Neural Kernels, and of the same without meta-learning.

    Args:
        study: of `draw`.
        given: the kernels of its tasks, by any network.
        tau: as in `meta_neural_kernel`.
        time: likewise.
        ridge: likewise.

    Returns:
        By name: 'pixels' and 'embedding', the nearest support image; 'no meta-learning', kernel regression; and 'MNK'.
    """
    by_kernel = [
        study.predicted(meta_neural_kernel(given, study.train, study.test, tau, until, ridge)) for until in (0.0, time)
    ]
    found = (study.nearest(study.test.images), study.nearest(study.embedded), *by_kernel)
    return dict(zip(("pixels", "embedding", "no meta-learning", "MNK"), map(study.accuracy, found), strict=True))


@dataclass(frozen=True, eq=False)
class _Table:
    """Episodes, and the distinct images that they use: rows of supports and of queries, shape [tasks, points]."""

    episodes: Sequence[Episode]
    pixels: Floats
    support: torch.Tensor
    queries: torch.Tensor

    @classmethod
    def of(cls, domains: Mapping[str, Domain], shape: Shape, seed: int, purpose: str, count: int) -> _Table:
        """Draw a number of tasks from domains in turn."""
        streams = [Episodes(name, domain, shape, seed, purpose) for name, domain in domains.items()]
        episodes = [streams[number % len(streams)][number // len(streams)] for number in range(count)]
        # Images of all domains have one range of numbers.
        sizes = [domain.images.shape[0] for domain in domains.values()]
        firsts = np.cumsum([0, *sizes[:-1]])[np.arange(count) % len(streams), None]
        support, queries = (
            firsts + np.stack([part.ravel() for part in points])
            for points in ([one.support for one in episodes], [one.query for one in episodes])
        )
        used = np.unique(np.concatenate([support.ravel(), queries.ravel()]))
        pixels = []
        for first, domain in zip(np.cumsum([0, *sizes[:-1]]), domains.values(), strict=True):
            own = used[(used >= first) & (used < first + domain.images.shape[0])] - first
            pixels.append(_flat(domain.images[own]))
        rows = (torch.as_tensor(np.searchsorted(used, numbers)) for numbers in (support, queries))
        return cls(episodes, np.concatenate(pixels), *rows)

    def tasks(self, support_labels: torch.Tensor, query_labels: torch.Tensor) -> Tasks:
        """Return the tasks with labels, their images of norm sqrt(dimensions)."""
        images = torch.as_tensor(unit(self.pixels) * self.pixels.shape[1] ** 0.5)
        return Tasks(images, self.support, self.queries, support_labels, query_labels)


def _flat(images: npt.NDArray[np.uint8]) -> Floats:
    return np.asarray(images, np.float64).reshape(len(images), -1) / 255


def _each(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Return labels of classes [tasks, ways, outputs] for as many images of each, shape [tasks, ways * count, outputs]."""
    return labels.repeat_interleave(count, dim=1)


def _one_hot(table: _Table, shape: Shape) -> Tasks:
    centred = torch.eye(shape.ways, dtype=torch.float64) - 1 / shape.ways
    labels = centred.expand(len(table.support), -1, -1)
    return table.tasks(_each(labels, shape.shots), _each(labels, shape.queries))


def _all_orders(tasks: Tasks, shape: Shape) -> Tasks:
    """Return each task once per order of its classes: permutations of the columns of its labels."""
    orders = torch.tensor(list(itertools.permutations(range(shape.ways))))
    permuted = (labels[:, :, orders].permute(0, 2, 1, 3) for labels in (tasks.support_labels, tasks.query_labels))
    support, queries = (rows.repeat_interleave(len(orders), 0) for rows in (tasks.support, tasks.queries))
    return Tasks(tasks.images, support, queries, *(labels.flatten(0, 1) for labels in permuted))


def _embedded(table: _Table, shape: Shape, embedding: Embedding) -> Tasks:
    """Return tasks whose classes have the mean embedding of their support as a label, of length 1."""
    found = embedding(table.pixels)[table.support.numpy()]
    classes = torch.as_tensor(unit(found.reshape(len(found), shape.ways, shape.shots, -1).mean(2)))
    return table.tasks(_each(classes, shape.shots), _each(classes, shape.queries))
