"""The suite at the paper's sizes: planned in full, and every cell that trains run for two outer steps at its size.

Its data sets are fetched: images of the same shape that ship stand in for them, and weights of VGG-16's shape that were drawn.
"""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bilevel import cached_data

from metabench.core.problem import Validation
from metabench.core.randomness import generator
from metabench.data.contract import Classification
from metabench.problems import neural_art
from metabench.suite.plan.cell import Cell
from metabench.suite.plan.labels import method_of, method_options, problem_of
from metabench.suite.plan.plan import load_suite, plan
from metabench.training.loop import train
from metabench.training.run import Run

SUITE = Path(__file__).parents[2] / "config/suites/learned_optimisers-paper.yaml"
CELLS = plan(load_suite(SUITE)).cells
VGG16 = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
VGG16 |= {17: (256, 512), 19: (512, 512), 21: (512, 512)}


def _colour_images() -> Classification:
    """Crops of photographs in the shape of CIFAR-10; the class is where the crop lies."""
    photographs = torch.stack([torch.as_tensor(one.copy()) for one in cached_data("photographs").train.values()])
    crops = photographs.permute(0, 3, 1, 2).unfold(2, 32, 12).unfold(3, 32, 12)
    count, _, rows, columns = crops.shape[:4]
    images = (crops.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 32, 32) / 255).numpy()
    targets = (torch.arange(rows * columns) % 10).repeat(count).numpy()
    return Classification(images, targets, images, targets, tuple("0123456789"))


def _weights() -> bytes:
    held = {}
    for place, (before, after) in VGG16.items():
        drawn = torch.randn((after, before, 3, 3), generator=generator(place, "weights"))
        held |= {
            f"features.{place}.weight": drawn / math.sqrt(4.5 * before),
            f"features.{place}.bias": torch.zeros(after),
        }
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()


def _standing_in(dataset: str) -> Any:
    return (
        _colour_images() if dataset == "cifar10" else cached_data({"mnist": "fashion_mnist_10k"}.get(dataset, dataset))
    )


def test_the_suite_has_every_family_and_every_baseline() -> None:
    learned = {(cell.problem, cell.method) for cell in CELLS if cell.kind == "quality"}
    tuned = {cell.problem for cell in CELLS if cell.kind == "tuned"}
    families = {"learned_quadratics", "learned_perceptron", "learned_convnet", "neural_art"}
    assert learned == {(family, method) for family in families for method in ("unrolled", "first_order")}
    assert tuned == families


@pytest.mark.parametrize("cell", [one for one in CELLS if one.kind == "quality"], ids=lambda one: one.stem)
def test_two_outer_steps_at_the_sizes_of_the_paper(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--full"):  # whole windows of all cells take four minutes
        cell = dataclasses.replace(cell, inner_steps=2)
    monkeypatch.setattr(neural_art, "load", lambda name: {"vgg16": _weights}[name]())
    problem = problem_of(cell, 0, _standing_in(cell.dataset), "cpu", "float32")
    problem.validation: Validation | None = None
    run = Run.fresh(problem, generator(0, "training"))
    before = run.meta
    for _ in train(problem, method_of(cell), method_options(cell), run, 2):
        pass
    assert run.step == 2 and math.isfinite(run.outer_loss)
    assert all(not torch.equal(leaf, before[name]) for name, leaf in run.meta.items())
