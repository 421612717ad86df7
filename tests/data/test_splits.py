from __future__ import annotations

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data.splits import by_content, disjoint

SIZES = {"train": 60, "valid": 20, "test": 15}


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_splits_are_disjoint_and_as_large_as_asked(seed: int, stratified: bool) -> None:
    targets = np.arange(100) % 7 if stratified else None
    rows = disjoint(100, SIZES, seed, targets)
    assert {name: len(index) for name, index in rows.items()} == SIZES
    every = np.concatenate(list(rows.values()))
    assert len(np.unique(every)) == len(every)
    assert every.min() >= 0 and every.max() < 100
    assert all(np.all(np.diff(index) > 0) for index in rows.values())


def test_the_seed_alone_decides() -> None:
    first, again, other = (disjoint(100, SIZES, seed)["train"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert disjoint(12, {"a": 4, "b": 3}, seed=0)["a"].tolist() == [1, 2, 3, 11]
    assert disjoint(12, {"a": 4, "b": 3}, seed=0, targets=np.arange(12) % 2)["b"].tolist() == [0, 1, 6]


def test_balanced_classes_stay_balanced_exactly() -> None:
    targets = np.repeat(np.arange(10), 50)
    rows = disjoint(500, {"train": 300, "valid": 100, "test": 50}, seed=1, targets=targets)
    for name, a_class in (("train", 30), ("valid", 10), ("test", 5)):
        np.testing.assert_array_equal(np.bincount(targets[rows[name]]), a_class)


def test_unequal_classes_keep_their_proportions_to_two_examples() -> None:
    counts = np.array([500, 300, 150, 50])
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts))
    rows = disjoint(1000, {"train": 613, "valid": 201, "test": 107}, seed=5, targets=targets)
    for index in rows.values():
        np.testing.assert_allclose(np.bincount(targets[index], minlength=4), counts * len(index) / 1000, atol=2)


def test_all_examples_may_be_asked_for() -> None:
    rows = disjoint(10, {"train": 7, "test": 3, "none": 0}, seed=0)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(10))


def test_asking_for_more_than_there_is_names_the_numbers() -> None:
    with pytest.raises(MetabenchError, match=r"train 60 \+ valid 20 \+ test 15 = 95 examples, but there are 94"):
        disjoint(94, SIZES, seed=0)


@pytest.mark.parametrize(
    ("sizes", "seed", "n_targets", "complaint"),
    [
        ({"train": -1}, 0, 10, "'train': its size must not be negative, found -1"),
        ({"train": 1}, -3, 10, "seed of a split must not be negative, found -3"),
        ({"train": 1}, 0, 9, "10 examples needs 10 targets, found 9"),
    ],
)
def test_nonsense_is_refused(sizes: dict[str, int], seed: int, n_targets: int, complaint: str) -> None:
    with pytest.raises(MetabenchError, match=complaint):
        disjoint(10, sizes, seed, np.zeros(n_targets, dtype=int))


def test_a_draw_by_content_does_not_depend_on_the_order_of_the_source() -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(40, 4, 4), dtype=np.uint8)
    targets = np.arange(40) % 4
    shuffle = np.random.default_rng(1).permutation(40)
    one = by_content(images, {"train": 20, "test": 8}, targets)
    other = by_content(images[shuffle], {"train": 20, "test": 8}, targets[shuffle])
    for name in one:
        assert {image.tobytes() for image in images[one[name]]} == {i.tobytes() for i in images[shuffle][other[name]]}
        np.testing.assert_array_equal(np.bincount(targets[one[name]]), len(one[name]) // 4)
