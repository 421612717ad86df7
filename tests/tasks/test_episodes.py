"""Labelled tasks of unseen characters: scripts, labels, nearest images, and Meta Neural Kernels on the same episodes."""

from __future__ import annotations

import math

import numpy as np
import torch
from bilevel import cached_data

from metabench.data.episodes import Shape
from metabench.kernels.dense import MLP
from metabench.kernels.few_shot import Grams
from metabench.kernels.gram import Gram
from metabench.tasks.accuracy import interval
from metabench.tasks.episodes import accuracies, draw


def test_tasks_have_classes_of_one_script_and_labels_of_their_supports() -> None:
    data = cached_data("glyphs")
    shape = Shape(3, 2, 4)
    wanted = {"seed": 1, "characters": 6, "tasks": 4, "tests": 6, "train_on": "Latin", "test_on": "Greek + Cyrillic"}
    study = draw(data, shape, **wanted)
    assert study.train.support.shape == (4, 6) and study.test.queries.shape == (6, 12)
    assert study.train.support_labels.shape == (4, 6, 5) and study.test.query_labels.shape == (6, 12, 5)
    for tasks in (study.train, study.test):
        torch.testing.assert_close(tasks.images.norm(dim=1), torch.full((len(tasks.images),), 16.0).double())
        torch.testing.assert_close(tasks.query_labels.norm(dim=2), torch.ones(tasks.queries.shape).double())
        for rows in torch.cat([tasks.support, tasks.queries], 1):
            assert len(rows.unique()) == len(rows)
    known = {
        script: {(image / np.linalg.norm(image) * 16).round(6).tobytes() for image in _flat(data.train[script].images)}
        for script in ("Latin", "Greek", "Cyrillic")
    }

    def script(image: torch.Tensor) -> set[str]:
        return {name for name, images in known.items() if image.numpy().round(6).tobytes() in images}

    assert all("Latin" in script(image) for image in study.train.images[::7])
    for number, (support, queries) in enumerate(zip(study.test.support, study.test.queries, strict=True)):
        chosen = study.test.images[torch.cat([support, queries])]
        assert all(("Greek", "Cyrillic")[number % 2] in script(image) for image in chosen[::5])
    support = study.test.support_labels.reshape(6, 3, 2, 5)
    assert torch.equal(support[:, :, 0], support[:, :, 1])
    assert torch.equal(study.test.query_labels[:, ::4], support[:, :, 0])
    # A query trained on has the label of its character, whatever the support: two tasks with a character agree.
    labels_of = {tuple(label.tolist()) for label in study.train.query_labels.flatten(0, 1)}
    assert len(labels_of) <= 6


def test_what_is_trained_on_does_not_depend_on_the_test() -> None:
    shape, wanted = Shape(3, 1, 2), {"seed": 0, "characters": 5, "tasks": 3, "train_on": "Latin"}
    one = draw(cached_data("glyphs"), shape, tests=4, test_on="Greek", **wanted)
    other = draw(cached_data("glyphs"), shape, tests=9, test_on="Cyrillic + Arabic", **wanted)
    for name, leaf in vars(one.train).items():
        assert torch.equal(leaf, getattr(other.train, name)), name
    assert not torch.equal(one.test.images[:10], other.test.images[:10])


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)


def test_meta_neural_kernels_are_compared_on_the_same_episodes() -> None:
    data = cached_data("glyphs")
    study = draw(
        data, Shape(5, 1, 4), seed=0, characters=20, tasks=10, tests=100, train_on="Latin", test_on="Greek + Cyrillic"
    )
    given = Grams.of(Gram(MLP(1, "relu", 2**0.5, 0.1).kernels, ""), study.train, study.test)
    found = accuracies(study, given, math.inf, math.inf, 1e-2)
    assert list(found) == ["pixels", "embedding", "no meta-learning", "MNK"]
    assert all(len(one) == 100 for one in found.values())
    gain = found["MNK"] - found["no meta-learning"]
    assert float(gain.mean()) > interval(gain)


def test_a_nearest_image_by_hand() -> None:
    study = draw(
        cached_data("glyphs"), Shape(2, 2, 1), seed=0, characters=5, tasks=1, tests=2, train_on="Latin", test_on="Greek"
    )
    points = torch.zeros(len(study.test.images), 1, dtype=torch.float64)
    points[study.test.support[0]] = torch.tensor([[0.0], [10.0], [4.0], [20.0]], dtype=torch.float64)
    points[study.test.queries[0]] = torch.tensor([[3.5], [11.0]], dtype=torch.float64)
    predicted = study.nearest(points)[:1]
    assert predicted.tolist() == [[1, 0]] and study.accuracy(predicted).tolist() == [0.0]
