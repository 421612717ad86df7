"""Training, meta-validation and test examples are disjoint, drawn by the seed, and the same in every number type."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from bilevel import cached_data, make_problem

from metabench.core import Batch, Problem

LEVELS = {"digits": 16, "fashion_mnist_10k": 255}
"""Grey levels of the images: by them a standardised image is recognised again."""

CASES = [
    ("regularisation", "digits", {}),
    ("regularisation", "fashion_mnist_10k", {"train": 200, "validation": 300}),
    ("label_noise", "digits", {"train": 800, "validation": 400, "batch": 100}),
    ("label_noise", "fashion_mnist_10k", {"train": 2000, "validation": 500, "batch": 100}),
]
cases = pytest.mark.parametrize(("name", "dataset", "options"), CASES)
seeds = pytest.mark.parametrize("seed", [0, 1, 2])


def epoch(problem: Problem) -> tuple[list[Batch], list[Batch]]:
    """Return inner and outer batches that see every training and every meta-validation example at least once."""
    options = problem.setting.options
    windows = 1 + max(options.train, options.validation) // (options.batch if hasattr(options, "batch") else 10**9)
    drawn = [next_one[0] for next_one in itertools.islice(problem.windows(), windows)]
    return [batch for window in drawn for batch in window.inner], [window.outer[-1] for window in drawn]  # type: ignore[misc]


def images(batches: list[Batch], dataset: str, low: float, high: float) -> dict[bytes, int]:
    """Return the label by the bytes of each image, the affine change of its pixels undone."""
    found = {}
    for batch in batches:
        pixels = ((batch["inputs"].flatten(1) - low) / (high - low) * LEVELS[dataset]).round().to(torch.uint8).numpy()
        found |= {image.tobytes(): int(target) for image, target in zip(pixels, batch["targets"], strict=True)}
    return found


def parts(problem: Problem, dataset: str) -> tuple[dict[bytes, int], dict[bytes, int]]:
    inner, outer = epoch(problem)
    extent = torch.cat([batch["inputs"].flatten() for batch in inner])
    low, high = float(extent.min()), float(extent.max())  # black and white are in every training set here
    return images(inner, dataset, low, high), images(outer, dataset, low, high)


def of_data(dataset: str, split: str) -> dict[bytes, int]:
    data: Any = cached_data(dataset)
    inputs, targets = getattr(data, f"{split}_inputs"), getattr(data, f"{split}_targets")
    return images([{"inputs": torch.as_tensor(inputs), "targets": torch.as_tensor(targets)}], dataset, 0.0, 1.0)


@cases
@seeds
def test_no_example_is_in_two_splits(name: str, dataset: str, options: dict[str, Any], seed: int) -> None:
    problem = make_problem(
        name, dataset=dataset, size=None if name == "regularisation" else "mlp64", seed=seed, **options
    )
    train, validation = parts(problem, dataset)
    settings = problem.setting.options
    assert (len(train), len(validation)) == (settings.train, settings.validation)
    assert not train.keys() & validation.keys()
    assert train.keys() | validation.keys() <= of_data(dataset, "train").keys()
    assert not (train.keys() | validation.keys()) & of_data(dataset, "test").keys()


@cases
def test_another_seed_draws_other_splits(name: str, dataset: str, options: dict[str, Any]) -> None:
    first, second = (parts(make_problem(name, dataset=dataset, seed=seed, **options), dataset) for seed in (0, 1))
    for ours, theirs in zip(first, second, strict=True):
        assert len(ours) == len(theirs)
        assert ours.keys() != theirs.keys()


@cases
def test_meta_validation_labels_are_the_true_ones(name: str, dataset: str, options: dict[str, Any]) -> None:
    _, validation = parts(make_problem(name, dataset=dataset, **options), dataset)
    truth = of_data(dataset, "train")
    assert all(truth[image] == label for image, label in validation.items())


@pytest.mark.parametrize(("name", "dataset", "options"), CASES[:3])
def test_classes_keep_their_proportions_in_every_split(name: str, dataset: str, options: dict[str, Any]) -> None:
    train, validation = parts(make_problem(name, dataset=dataset, **options), dataset)
    truth = of_data(dataset, "train")
    for part in (train, validation):
        counts = torch.bincount(torch.tensor([truth[image] for image in part]), minlength=10)
        expected = len(part) / 10
        assert float((counts - expected).abs().max()) <= 0.1 * expected + 2


@pytest.mark.parametrize("noise", ["flip", "uniform"])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_training_labels_are_wrong_at_the_rate_asked_for(rate: float, noise: str) -> None:
    options = {"train": 2000, "validation": 100, "batch": 100, "rate": rate, "noise": noise}
    train, _ = parts(
        make_problem("label_noise", dataset="fashion_mnist_10k", size="mlp64", **options), "fashion_mnist_10k"
    )
    truth = of_data("fashion_mnist_10k", "train")
    wrong = sum(truth[image] != label for image, label in train.items()) / 2000
    expected = rate if noise == "flip" else 0.9 * rate  # any class is drawn, the true one with probability 1/10
    # Five standard errors of a share of 2000: passed by chance with probability 6e-7.
    assert abs(wrong - expected) <= 5 * (expected * (1 - expected) / 2000) ** 0.5
