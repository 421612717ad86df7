"""The suite at the EvoGrad paper's settings: planned in full, and models trained for two steps at their size.

Its data sets are fetched, or in a folder of the user's: images of the same shape that ship stand in for them, in small batches unless all
tests are asked for in full; the larger networks wait for that.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel import cached_data

from metabench.core.randomness import generator
from metabench.data.contract import Classification
from metabench.data.few_shot import Domain, FewShot
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import method_of, method_options, problem_of
from metabench.suite.plan.plan import load_suite, plan
from metabench.training.loop import train
from metabench.training.run import Run

SUITE = Path(__file__).parents[2] / "config/suites/evograd-paper.yaml"
CELLS = plan(load_suite(SUITE)).cells
ENOUGH = {"label_noise": {"train": 80, "validation": 20, "augment": True}, "rotation": {"train": 80, "validation": 20}}
FEW = {
    "label_noise": {"batch": 4},
    "rotation": {"batch": 8},
    "cross_domain_fewshot": {"shots": 1, "queries": 1},
    "cross_lingual": {"batch": 2},
}
"""Options under which a step takes seconds, by problem; the network keeps its size."""
LARGE = ("wrn28_10", "resnet32x5")
"""Networks of which a batch of the paper's size takes minutes on two cores: small batches always."""


def _crops(side: int) -> torch.Tensor:
    """Return crops of photographs, shape [n, 3, side, side], values in [0, 1]; neighbours are of one photograph."""
    held = cached_data("photographs")
    pictures = torch.stack([torch.as_tensor(one.copy()) for one in [*held.train.values(), *held.test.values()]])
    step = 12 if side == 32 else 15
    found = pictures.permute(0, 3, 1, 2).unfold(2, side, step).unfold(3, side, step)
    return found.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side) / 255


def _cifar(classes: int) -> Classification:
    images = _crops(32)[:400].numpy()
    targets = (torch.arange(len(images)) % classes).numpy()
    return Classification(images, targets, images, targets, tuple(map(str, range(classes))))


def _photographs() -> FewShot:
    """Five domains of five classes of eighteen crops."""
    crops = (255 * _crops(84)).byte().numpy()
    names = ("miniImagenet", "cub", "cars", "places", "plantae")
    targets = (torch.arange(90) // 18).numpy()
    parts = {name: Domain(crops[place : place + 90], targets, tuple("abcde")) for place, name in enumerate(names)}
    return FewShot(train=parts, validation=parts, test=parts)


DATA: dict[str, Any] = {"cifar10": lambda: _cifar(10), "cifar100": lambda: _cifar(100), "cross_domain_84": _photographs}


def _loaded(dataset: str) -> Any:
    stand_in = {"mnist": "fashion_mnist_10k", "fashion_mnist": "fashion_mnist_10k"}
    return DATA[dataset]() if dataset in DATA else cached_data(stand_in.get(dataset, dataset))


def _one_of_each() -> list[Cell]:
    """Return a cell for every problem, size and method that trains or is measured, without copies of the same network."""
    found: dict[tuple[str, str, str], Cell] = {}
    for cell in CELLS:
        if cell.method in ("t1t2", "evograd"):
            found.setdefault((cell.problem, cell.size, cell.method), cell)
    return list(found.values())


def test_the_suite_has_the_four_applications_and_the_sizes_of_the_paper() -> None:
    sizes: dict[str, set[str]] = {}
    for cell in CELLS:
        sizes.setdefault(cell.problem, set()).add(cell.size)
    assert set(sizes) == {"rotation", "label_noise", "cross_domain_fewshot", "cross_lingual"}
    assert {"resnet32", "resnet32x2", "resnet32x3", "resnet32x4", "resnet32x5", "wrn28_10"} <= sizes["label_noise"]
    assert sizes["cross_domain_fewshot"] == {"resnet10", "resnet18", "resnet34"}


@pytest.mark.parametrize("cell", _one_of_each(), ids=lambda one: f"{one.problem}-{one.size}-{one.method}")
def test_two_outer_steps_at_the_sizes_of_the_paper(cell: Cell, request: pytest.FixtureRequest) -> None:
    full = request.config.getoption("--full")
    if cell.size.startswith("xlmr") and importlib.util.find_spec("transformers") is None:
        pytest.skip("XLM-R needs the extra 'nlp'")
    if not full and cell.size not in ("lenet", "resnet32", "resnet10"):
        pytest.skip("a minute or more: with --full")
    options = dict(cell.problem_options) | ENOUGH.get(cell.problem, {})
    options |= FEW[cell.problem] if not full or cell.size in LARGE else {}
    if "schedule" in options:
        options["learning_rate"] = 1e-3  # a first step of 0.1 without warm-up is no test of the network
    problem = problem_of(dataclasses.replace(cell, problem_options=options), 0, _loaded(cell.dataset), "cpu", "float32")
    run = Run.fresh(problem, generator(0, "training"))
    before = run.meta
    for _ in train(problem, method_of(cell), method_options(cell), run, 2):
        pass
    assert run.step == 2 and math.isfinite(run.outer_loss)
    assert any(not torch.equal(leaf, before[name]) for name, leaf in run.meta.items())
