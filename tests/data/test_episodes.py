from __future__ import annotations

import itertools

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import load
from metabench.data.episodes import Episodes, Shape
from metabench.data.few_shot import Domain


def domain(counts: list[int]) -> Domain:
    targets = np.repeat(np.arange(len(counts)), counts)[np.random.default_rng(0).permutation(sum(counts))]
    return Domain(np.zeros((len(targets), 1, 2, 2), np.uint8), targets, tuple(map(str, range(len(counts)))))


def test_a_task_has_n_classes_and_disjoint_images_of_them() -> None:
    data = load("glyphs").test["Arabic"]
    episodes = Episodes("Arabic", data, Shape(5, 3, 7), seed=0, purpose="test")
    for number in range(20):
        task = episodes[number]
        assert len(set(task.classes)) == 5
        assert task.support.shape == (5, 3) and task.query.shape == (5, 7)
        both = np.concatenate([task.support, task.query], axis=1)
        assert len(np.unique(both)) == both.size
        np.testing.assert_array_equal(data.targets[both], np.repeat(task.classes[:, None], 10, axis=1))


def test_a_task_is_its_number_s_whatever_was_drawn_before() -> None:
    data = domain([9, 4, 6, 5])

    def make(seed: int = 3, purpose: str = "train") -> Episodes:
        return Episodes("d", data, Shape(2, 1, 2), seed, purpose)

    forward, episodes = [make()[number] for number in range(6)], make()
    for number in reversed(range(6)):
        np.testing.assert_array_equal(episodes[number].support, forward[number].support)
        np.testing.assert_array_equal(episodes[number].query, forward[number].query)
    found = [tuple(one[0].query.ravel()) for one in (make(), make(seed=4), make(purpose="test"))]
    assert len(set(found)) == 3
    # Pinned: another numpy draws the same.
    assert forward[0].classes.tolist() == [3, 2]


def test_every_large_enough_class_and_image_is_drawn_alike() -> None:
    data = domain([3, 8, 2, 5])  # the third is too small
    episodes = Episodes("d", data, Shape(2, 1, 2), 0, "train")
    tasks = [episodes[number] for number in range(3000)]
    classes = np.bincount(np.concatenate([task.classes for task in tasks]), minlength=4)
    np.testing.assert_allclose(classes / 3000, [2 / 3, 2 / 3, 0, 2 / 3], atol=0.03)
    support = np.bincount(np.concatenate([task.support.ravel() for task in tasks]), minlength=len(data.targets))
    np.testing.assert_allclose(support[data.targets == 1] / 3000, 2 / 3 / 8, atol=0.02)


@pytest.mark.parametrize(("ways", "shots", "queries"), list(itertools.product((5,), (1, 5), (3, 9))))
def test_too_few_classes_are_refused_with_what_there_is(ways: int, shots: int, queries: int) -> None:
    with pytest.raises(
        MetabenchError,
        match=rf"domain 'few': a 5-way {shots}-shot task with {queries} .* needs 5 classes of {shots + queries} images, "
        rf"and {sum(count >= shots + queries for count in (9, 4, 6, 5))} of its 4 .*the largest has 9",
    ):
        Episodes("few", domain([9, 4, 6, 5]), Shape(ways, shots, queries), 0, "train")
