"""Linear discriminants: directions in which classes differ, and embeddings of length 1."""

from __future__ import annotations

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.models.discriminants import Discriminants, unit


def clouds(classes: int = 3, each: int = 200, dimensions: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Classes that differ in the first dimensions, under noise that is ten times as large in the last one."""
    stream = np.random.default_rng(0)
    targets = np.repeat(np.arange(classes), each)
    images = stream.normal(size=(len(targets), dimensions))
    images[:, -1] *= 10
    images[np.arange(len(targets)), targets] += 4
    return images, targets


def test_classes_are_nearer_in_the_embedding_than_in_the_images() -> None:
    images, targets = clouds()
    fitted = Discriminants.fit(images, targets)
    assert fitted.directions.shape == (5, 2)

    def right(points: np.ndarray, means: np.ndarray) -> float:
        return float((np.linalg.norm(points[:, None] - means, axis=2).argmin(1) == targets).mean())

    of_images = np.stack([images[targets == one].mean(0) for one in range(3)])
    by_embedding = right(fitted(images), fitted.of_classes(images, targets))
    assert by_embedding > 0.97 and right(images[:, -1:], of_images[:, -1:]) < 0.6


def test_the_covariance_within_a_class_is_the_identity_and_lengths_are_one() -> None:
    images, targets = clouds(each=4000)
    fitted = Discriminants.fit(images, targets)
    centred = images - np.stack([images[targets == one].mean(0) for one in range(3)])[targets]
    within = np.cov((centred @ fitted.directions).T)
    np.testing.assert_allclose(within, np.eye(2), atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(fitted(images), axis=1), 1, rtol=1e-12)
    assert not unit(np.zeros((1, 3))).any() and not fitted(fitted.mean[None]).any()


def test_an_embedding_does_not_depend_on_where_the_origin_is() -> None:
    images, targets = clouds(each=20)
    found, moved = (Discriminants.fit(points, targets)(points) for points in (images, images + 7))
    np.testing.assert_allclose(moved, found, atol=1e-10)


def test_one_class_or_one_image_per_class_is_refused() -> None:
    images, targets = clouds()
    with pytest.raises(MetabenchError, match="of 200 images in 1 classes: expected two classes or more"):
        Discriminants.fit(images[:200], targets[:200])
    with pytest.raises(MetabenchError, match="of 3 images in 3 classes"):
        Discriminants.fit(images[::200], targets[::200])
