"""Which classes are trained on and which are tested: the seed draws, domains are apart, and what is too much is refused."""

from __future__ import annotations

import numpy as np
import pytest

from metabench.core.errors import MetabenchError
from metabench.data import load
from metabench.data.contract import Classification
from metabench.data.few_shot import Domain, FewShot
from metabench.data.unseen import drawn, parts


def domain(classes: int, first: int) -> Domain:
    """Three images per class, of one pixel each, whose value is `first` plus the number of the class."""
    targets = np.repeat(np.arange(classes), 3)[::-1].copy()
    images = np.uint8(first + targets)[:, None, None, None]
    return Domain(images, targets, tuple(f"{first}/{number}" for number in range(classes)))


DATA = FewShot({"a": domain(4, 10), "b": domain(3, 20)}, {"c": domain(2, 30)}, {"d": domain(2, 40), "e": domain(2, 50)})


def test_domains_are_named_or_those_of_the_data_set() -> None:
    assert [list(side) for side in parts(DATA, "", "", 0)] == [["a", "b"], ["d", "e"]]
    assert [list(side) for side in parts(DATA, "a", "b + c", 0)] == [["a"], ["b", "c"]]


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ("a + f", "b", "unknown domain under 'train_on' 'f'"),
        ("a", "greek", "unknown domain under 'test_on' 'greek'"),
        ("a + b", "b", "domain 'b' is trained on and tested"),
    ],
)
def test_domains_that_there_are_not_or_on_both_sides_are_refused(train: str, test: str, words: str) -> None:
    with pytest.raises(MetabenchError) as error:
        parts(DATA, train, test, 0)
    assert words in str(error.value)


def test_a_draw_has_the_images_of_its_classes_and_a_larger_one_contains_it() -> None:
    few, more = (drawn(DATA.train, count, 0) for count in (3, 5))
    assert len(few.classes) == 3 and set(few.classes) < set(more.classes)
    for found in (few, more, drawn(DATA.train, 0, 0)):
        assert np.bincount(found.targets).tolist() == [3] * len(found.classes)
        values = [sum(map(int, name.split("/"))) for name in found.classes]
        assert np.array(values)[found.targets].tolist() == found.images[:, 0, 0, 0].tolist()
    assert len(drawn(DATA.train, 0, 0).classes) == 7
    assert len({drawn(DATA.train, 3, seed).classes for seed in range(6)}) > 1
    assert drawn(DATA.train, 3, 1).classes == drawn(DATA.train, 3, 1).classes


def test_more_classes_than_there_are_are_refused() -> None:
    with pytest.raises(MetabenchError, match=r"8 classes to train on, and a \+ b has 7"):
        drawn(DATA.train, 8, 0)


def test_classes_without_domains_are_halved_and_images_of_the_test_are_tested() -> None:
    stream = np.random.default_rng(0)
    targets = np.arange(20) % 5
    inputs = [stream.integers(0, 256, (20, 1, 2, 2)).astype(np.float32) / np.float32(255) for _ in range(2)]
    data = Classification(inputs[0], targets, inputs[1], targets, tuple("vwxyz"))
    (train,), (test,) = (side.values() for side in parts(data, "Latin", "Greek", 0))
    assert (len(train.classes), len(test.classes)) == (2, 3)
    assert set(train.classes) | set(test.classes) == set("vwxyz")
    for half, images in ((train, inputs[0]), (test, inputs[1])):
        numbers = np.array(["vwxyz".index(name) for name in half.classes])[half.targets]
        for number in set(numbers):
            wanted = np.uint8(np.rint(255 * images[targets == number]))
            assert np.array_equal(half.images[numbers == number], wanted)
    halves = {parts(data, "", "", seed)[0]["seen classes"].classes for seed in range(8)}
    assert len(halves) > 1


def test_latin_is_trained_on_where_greek_and_cyrillic_are_unseen() -> None:
    train, test = parts(load("glyphs"), "Latin", "Greek + Cyrillic", 0)
    assert {name: len(one.classes) for name, one in (train | test).items()} == {
        "Latin": 38,
        "Greek": 34,
        "Cyrillic": 35,
    }
    assert not set(train["Latin"].classes) & (set(test["Greek"].classes) | set(test["Cyrillic"].classes))
